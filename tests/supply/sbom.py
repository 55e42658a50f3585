"""Writes a software bill of materials (CycloneDX 1.5, JSON): all that the binary of `make release` holds, with versions, licences
and the hashes of Cargo.lock. `sbom.py FILE`. The same sources give the same bytes."""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

import packages
import third_party

ROOT = pathlib.Path(__file__).parents[2]
# Where the sources of a C library tell its version: a file of the package that brings it, and the text before the version.
# None: the version of the package ends with it (`300.6.1+3.6.3`).
VERSIONS = {
    "SQLite": ("sqlite3/sqlite3.h", "#define SQLITE_VERSION "),
    "libssh2": ("libssh2/include/libssh2.h", "#define LIBSSH2_VERSION "),
    "zlib": ("src/zlib/zlib.h", "#define ZLIB_VERSION "),
    "Zstandard": None,
    "OpenSSL": None,
}
# Names and licences of the C libraries in the words of vulnerability databases and SPDX.
LIBRARIES = {"SQLite": ("sqlite:sqlite", "blessing"), "libssh2": ("libssh2:libssh2", "BSD-3-Clause"), "zlib": ("zlib:zlib", "Zlib"),
             "Zstandard": ("facebook:zstandard", "BSD-3-Clause"), "OpenSSL": ("openssl:openssl", "Apache-2.0")}


def component(name, version, licence, **more):
    licences = [{"expression": licence.replace("/", " OR ")}]
    return {"type": "library", "name": name, "version": version, "licenses": licences} | more


def library(package):
    """The C library that a package brings, if it is one of its own."""
    title = third_party.library(package)[0]
    if title not in VERSIONS:
        return None
    if VERSIONS[title] is None:
        version = re.search(r"\+(?:zstd\.)?([\d.]+)$", package["version"])[1]
    else:
        place, before = VERSIONS[title]
        text = third_party.read(pathlib.Path(package["manifest_path"]).parent / place)
        version = re.search(rf'^{before}\s*"([^"]+)"', text, re.MULTILINE)[1]
    names, licence = LIBRARIES[title]
    name = names.split(":")[1]
    purl = f"pkg:generic/{name}@{version}"
    return component(name, version, licence, purl=purl, **{"bom-ref": purl, "cpe": f"cpe:2.3:a:{names}:{version}:*:*:*:*:*:*:*"})


def written():
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    hashes = {(entry["name"], entry["version"]): entry.get("checksum") for entry in lock["package"]}
    ours = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]
    found = []
    for package in packages.shipped():
        name, version = package["name"], package["version"]
        purl = f"pkg:cargo/{name}@{version}"
        content = hashes[name, version]
        found.append(component(name, version, package["license"], purl=purl, **{
            "bom-ref": purl, "hashes": [{"alg": "SHA-256", "content": content}]}))
        brought = library(package)
        if brought:
            found.append(brought)
    rust = subprocess.run(("rustc", "--version"), check=True, capture_output=True, text=True).stdout.split()[1]
    found.append(component("rust", rust, "MIT OR Apache-2.0", **{"bom-ref": f"pkg:generic/rust@{rust}"}))
    # Rust brings the one, for armv7 Debian the other.
    found.append(component("musl", "1.2.3 to 1.2.5", "MIT", **{"bom-ref": "pkg:generic/musl"}))
    subject = {"type": "application", "name": ours["name"], "version": ours["version"], "bom-ref": "harmonylite",
               "licenses": [{"expression": ours["license"]}]}
    depends = [{"ref": "harmonylite", "dependsOn": [one["bom-ref"] for one in found]}]
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": subject},
            "components": found, "dependencies": depends}


if __name__ == "__main__":
    bill = written()
    out = pathlib.Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(bill, indent=1) + "\n")
    print(f"{out}: {len(bill['components'])} components")
