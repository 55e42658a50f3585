"""Writes THIRD-PARTY: the licences of everything that the binary of `make release` holds. `third_party.py FILE`.

Fails for a licence that is not accepted, for a C library that nobody has listed here, and when a shipped package is missing."""

import pathlib
import re
import subprocess
import sys

import packages

# Licences that may be shipped: they ask for their text and no more.
ACCEPTED = {"MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "ISC", "Zlib",
            "Unicode-3.0", "Unlicense", "0BSD", "CC0-1.0", "blessing"}
# What `links` of a package's manifest announces: the library, and where its licence is in the package's sources. None: the
# licence is in the package's own files. `src` is for a library whose sources another package of SOURCES brings.
LIBRARIES = {
    "sqlite3": ("SQLite", "sqlite3/sqlite3.h"),
    "zstd": ("Zstandard", "zstd/LICENSE"),
    "ssh2": ("libssh2", "libssh2/COPYING"),
    "z": ("zlib", "src/zlib/zlib.h"),
    "openssl": ("OpenSSL, whose text stands under openssl-src", None),
    "ring_core": ("parts of BoringSSL and OpenSSL", None),
}
# Sources that a package brings without `links`.
BROUGHT = {"openssl-src": ("OpenSSL", "openssl/LICENSE.txt")}
TEXTS = re.compile(r"^(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)
MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the rights to
use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the
Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES
OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE
LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def accepted(expression):
    """Whether an SPDX expression can be fulfilled by accepted licences alone; `A/B` is the old way to write `A OR B`."""
    tokens = re.findall(r"[()]|[^()\s]+(?: WITH [^()\s]+)?", expression.replace("/", " OR "))

    def either():
        good = both()
        while tokens and tokens[0] == "OR":
            tokens.pop(0)
            good = both() or good
        return good

    def both():
        good = one()
        while tokens and tokens[0] == "AND":
            tokens.pop(0)
            good = one() and good
        return good

    def one():
        token = tokens.pop(0)
        if token == "(":
            good = either()
            return tokens.pop(0) == ")" and good
        return token in ACCEPTED

    try:
        return either() and not tokens
    except IndexError:
        return False


def read(path):
    return path.read_text(encoding="utf-8", errors="replace").strip()


def first_comment(text):
    """The comment at the head of a C file: where SQLite and zlib have their licence."""
    return text[text.index("/*") + 2:text.index("*/")].strip("* \n")


def library(package):
    """Name and licence of the C library that a package brings; None: it brings none."""
    links = re.sub(r"_[\d_]+$", "", package["links"] or "")
    if links and links not in LIBRARIES:
        sys.exit(f"{package['name']}: it links {links}, of which tests/supply/third_party.py knows no licence")
    name, place = LIBRARIES.get(links) or BROUGHT.get(package["name"]) or (None, None)
    if place is None:
        return name, None
    text = read(pathlib.Path(package["manifest_path"]).parent / place)
    return name, first_comment(text) if place.endswith(".h") else text


def texts(package):
    """The licence texts among a package's own files."""
    folder = pathlib.Path(package["manifest_path"]).parent
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and TEXTS.match(path.name)]
    return [read(path) for path in files]


def standard_library():
    """What Rust itself adds: its standard library, and musl, against which the binary is linked."""
    version = subprocess.run(("rustc", "--version"), check=True, capture_output=True, text=True).stdout.strip()
    yield f"The Rust standard library ({version})", "MIT OR Apache-2.0", [
        "Copyright (c) The Rust Project contributors; MIT, whose text stands under musl, or Apache License, Version 2.0."]
    yield "musl, the C library", "MIT", [f"Copyright © 2005-2020 Rich Felker, et al.\n\n{MIT}"]


def entries():
    """Title, licence expression and texts of everything."""
    wrong = []
    for package in packages.shipped():
        title, licence = f"{package['name']} {package['version']}", package["license"] or ""
        if not accepted(licence):
            wrong.append(f"{title}: its licence is {licence or 'not said'}; accepted are {', '.join(sorted(ACCEPTED))}")
        found = texts(package)
        if not found:
            authors = ", ".join(package["authors"]) or f"see {package['repository'] or 'its repository'}"
            found = [f"The package has no file with its licence. Licence: {licence}. Authors: {authors}."]
        name, text = library(package)
        if name:
            title += f", with {name}"
        yield title, licence, found + ([text] if text else [])
    yield from standard_library()
    if wrong:
        sys.exit("\n".join(wrong))


def written():
    """The whole file. A text that several packages share stands once."""
    holders, index = {}, []
    for title, licence, found in entries():
        index.append(f"{title}: {licence}")
        for text in found:
            key = " ".join(text.split())
            holders.setdefault(key, (text, []))[1].append(title)
    parts = ["Third-party software in this binary, with its licences.\n\n" + "\n".join(index)]
    parts += ["\n".join(titles) + "\n\n" + text for text, titles in holders.values()]
    return ("\n\n" + "=" * 80 + "\n\n").join(parts) + "\n"


def missing(text):
    """Shipped packages, as `cargo tree` counts them, whose line and text the file lacks."""
    said = packages.cargo("tree", "--locked", "--edges", "normal", "--features", packages.FEATURES, "--target",
                          packages.target(), "--prefix", "none", "--format", "{p}")
    listed = {tuple(line.split()[:2]) for line in said.splitlines() if "(/" not in line}
    names = [f"{name} {version.removeprefix('v')}" for name, version in sorted(listed)] + list(BROUGHT)
    index, *rest = text.split("=" * 80)
    stands = lambda name, part: re.search(rf"^{re.escape(name)}[ ,:]|^{re.escape(name)}$", part, re.MULTILINE)
    return [name for name in names if not stands(name, index) or not any(stands(name, part) for part in rest)], len(names)


if __name__ == "__main__":
    text = written()
    lacks, count = missing(text)
    if lacks:
        sys.exit(f"THIRD-PARTY lacks {', '.join(lacks)}")
    out = pathlib.Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text)
    print(f"{out}: licences of {count} packages")
