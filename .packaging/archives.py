"""Archives that come out the same, byte for byte, whenever they are made: what the packages and the image are built of."""

import gzip
import io
import tarfile


def tar(files):
    """Files as {path: (mode, content)}, with the number of a user behind the content if that is not root; a path that ends with
    a slash is a directory. Parents must stand before."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, (mode, content, *user) in files.items():
            entry = tarfile.TarInfo("./" + path.strip("/") if path.strip("/") else ".")
            entry.mode = mode
            if user:
                entry.uid = entry.gid = user[0]
            else:
                entry.uname = entry.gname = "root"
            if path.endswith("/"):
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def compressed(content):
    return gzip.compress(content, compresslevel=9, mtime=0)


def with_parents(files):
    """The same, with every directory above a file: 0755 unless it is named itself."""
    found = {"/": (0o755, b"")}
    for path in sorted(files):
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth]) + "/"
            found.setdefault(folder, files.get(folder, (0o755, b"")))
        found[path] = files[path]
    return found


def ar(members):
    """The format of a .deb: members as (name, content)."""
    out = b"!<arch>\n"
    for name, content in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode() + content
        out += b"\n" * (len(content) % 2)
    return out
