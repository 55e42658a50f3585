"""Debian and OpenWrt packages and container images from the static binaries in target/release-files. `packages.py [ARCH]...`

Service files, completion and manual page are what the binary of this machine prints, so they cannot differ from it."""

import hashlib
import json
import pathlib
import platform
import subprocess
import sys
import tempfile
import tomllib

from archives import ar, compressed, tar, with_parents

HERE = pathlib.Path(__file__).parent
OUT = HERE.parent / "target/release-files"
PACKAGE = tomllib.loads((HERE.parent / "Cargo.toml").read_text())["package"]
NAME, VERSION = PACKAGE["name"], PACKAGE["version"]
DEBIAN = {"x86_64": "amd64", "aarch64": "arm64", "armv7": "armhf"}
# Names of processors as OpenWrt has them (its releases to 24.10, whose package manager is opkg).
OPENWRT = {"x86_64": ["x86_64"], "aarch64": ["aarch64_generic", "aarch64_cortex-a53", "aarch64_cortex-a72"],
           "armv7": ["arm_cortex-a7_neon-vfpv4", "arm_cortex-a9_vfpv3-d16", "arm_cortex-a15_neon-vfpv4"]}
IMAGE = {"x86_64": {"architecture": "amd64"}, "aarch64": {"architecture": "arm64"},
         "armv7": {"architecture": "arm", "variant": "v7"}}
# The user of the image, as numbers: there is no file with names in it.
USER = 65532


def binary(arch):
    return OUT / f"{NAME}-{VERSION}-linux-{arch}"


def printed(*arguments, may_fail=False):
    """What the binary of this machine prints. It is called by the path that it has in a package, for that goes into the files."""
    if not binary(platform.machine()).exists():
        sys.exit(f"the packages hold what the binary of this machine prints: make release ARCH={platform.machine()} comes first")
    with tempfile.TemporaryDirectory() as root:
        places = {"usr/bin/harmonylite": binary(platform.machine()).read_bytes(),
                  "etc/harmonylite.toml": (HERE / "harmonylite.toml").read_bytes(), "etc/machine-id": b"0" * 32}
        for path, content in places.items():
            file = pathlib.Path(root, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            file.chmod(0o755)
        for folder in ("var/lib/harmonylite", "proc", "tmp"):
            pathlib.Path(root, folder).mkdir(parents=True)
        # The program asks /proc/self/exe for its own path.
        script = f'mount --rbind /proc {root}/proc && exec chroot {root} /usr/bin/harmonylite "$@"'
        done = subprocess.run(("unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", *arguments),
                              capture_output=True, text=True)
    if done.returncode:
        return None if may_fail else sys.exit(f"harmonylite {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def unit():
    """The unit, for the user whom the package makes."""
    text = printed("-config", "/etc/harmonylite.toml", "-print-service", "systemd")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return "\n".join("User=harmonylite" if line.startswith("User=") else "Group=harmonylite" if line.startswith("Group=") else line
                     for line in lines) + "\n"


def documents():
    return {f"usr/share/doc/{NAME}/copyright": (0o644, f"{NAME}: {PACKAGE['license']}\n\n".encode()
                                                + (OUT / "THIRD-PARTY").read_bytes())}


def control(text):
    return text.strip("\n").replace("\n\n", "\n").encode() + b"\n"


def deb(arch):
    config = (HERE / "harmonylite.toml").read_bytes()
    files = {"usr/bin/harmonylite": (0o755, binary(arch).read_bytes()),
             "etc/harmonylite.toml": (0o640, config),
             "usr/lib/systemd/system/harmonylite.service": (0o644, unit().encode()),
             "usr/share/bash-completion/completions/harmonylite": (0o644, printed("-completion", "bash").encode()),
             "var/lib/harmonylite/": (0o750, b"")} | documents()
    page = printed("-man", may_fail=True)
    if page:
        files["usr/share/man/man1/harmonylite.1.gz"] = (0o644, compressed(page.encode()))
    size = sum(len(content) for _, content in files.values()) // 1024 + 1
    about = control(f"""
Package: {NAME}
Version: {VERSION}
Architecture: {DEBIAN[arch]}
Maintainer: the {NAME} developers <{NAME}@localhost>
Installed-Size: {size}
Depends: adduser
Recommends: ca-certificates
Suggests: nats-server
Section: database
Priority: optional
Description: {PACKAGE['description'].split(',')[0]}
 {NAME} runs beside an application and replicates its SQLite database with
 every other node. It keeps snapshots from which a node without a database starts.
""")
    sums = "".join(f"{hashlib.md5(content).hexdigest()}  {path}\n" for path, (_, content) in sorted(files.items())
                   if not path.endswith("/"))
    scripts = {name: (0o755, (HERE / "debian" / name).read_bytes()) for name in ("postinst", "prerm", "postrm")}
    meta = {"/": (0o755, b""), "control": (0o644, about), "conffiles": (0o644, b"/etc/harmonylite.toml\n"),
            "md5sums": (0o644, sums.encode())} | scripts
    (OUT / f"{NAME}_{VERSION}_{DEBIAN[arch]}.deb").write_bytes(ar([
        ("debian-binary", b"2.0\n"), ("control.tar.gz", compressed(tar(meta))),
        ("data.tar.gz", compressed(tar(with_parents(files))))]))


def openwrt_config():
    """/var is in memory there, and a machine has no id of its own."""
    text = (HERE / "harmonylite.toml").read_text()
    text = text.replace("/var/lib/harmonylite/", "/srv/harmonylite/")
    return text.replace("Without it the machine's id is used.\n# node_id", "It must be set.\n# node_id").encode()


def ipk(arch):
    init = printed("-config", "/etc/harmonylite.toml", "-print-service", "procd")
    files = {"usr/bin/harmonylite": (0o755, binary(arch).read_bytes()),
             "etc/harmonylite.toml": (0o600, openwrt_config()),
             "srv/harmonylite/": (0o750, b""),
             "etc/config/harmonylite": (0o600, (HERE / "openwrt/config").read_bytes()),
             "etc/init.d/harmonylite": (0o755, init.encode()),
             "lib/upgrade/keep.d/harmonylite": (0o644, b"/etc/harmonylite.toml\n")}
    data = compressed(tar(with_parents(files)))
    scripts = {name: (0o755, (HERE / "openwrt" / name).read_bytes()) for name in ("postinst", "prerm")}
    for name in OPENWRT[arch]:
        about = control(f"""
Package: {NAME}
Version: {VERSION}-1
Depends: libc
License: {PACKAGE['license']}
Section: net
Architecture: {name}
Installed-Size: {len(files['usr/bin/harmonylite'][1])}
Description:  {PACKAGE['description'].split(',')[0]}
""")
        meta = {"/": (0o755, b""), "control": (0o644, about),
                "conffiles": (0o644, b"/etc/harmonylite.toml\n/etc/config/harmonylite\n")} | scripts
        members = {"debian-binary": (0o644, b"2.0\n"), "data.tar.gz": (0o644, data),
                   "control.tar.gz": (0o644, compressed(tar(meta)))}
        (OUT / f"{NAME}_{VERSION}-1_{name}.ipk").write_bytes(compressed(tar(members)))


def image(arch):
    """An image from an empty base, in the layout of OCI, and with the list of files that older `docker load` reads."""
    layer = tar(with_parents({"harmonylite": (0o755, binary(arch).read_bytes()),
                              "licenses/THIRD-PARTY": (0o644, (OUT / "THIRD-PARTY").read_bytes()),
                              "data/": (0o755, b"", USER), "tmp/": (0o1777, b"")}))
    blobs = {}

    def blob(content, kind):
        content = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = (0o644, content)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(content)}

    packed = blob(compressed(layer), "layer.v1.tar+gzip")
    config = blob(IMAGE[arch] | {
        "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
        "config": {"User": f"{USER}:{USER}", "WorkingDir": "/data", "Entrypoint": ["/harmonylite"],
                   "Cmd": ["-config", "/data/harmonylite.toml"], "Volumes": {"/data": {}},
                   "Labels": {"org.opencontainers.image.version": VERSION,
                              "org.opencontainers.image.licenses": PACKAGE["license"]}}}, "config.v1+json")
    manifest = blob({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
                     "layers": [packed]}, "manifest.v1+json")
    index = {"schemaVersion": 2, "manifests": [manifest | {
        "platform": IMAGE[arch] | {"os": "linux"}, "annotations": {"org.opencontainers.image.ref.name": VERSION}}]}
    place = lambda part: "blobs/" + part["digest"].replace(":", "/")
    listed = [{"Config": place(config), "RepoTags": [f"{NAME}:{VERSION}"], "Layers": [place(packed)]}]
    files = {"oci-layout": (0o644, b'{"imageLayoutVersion": "1.0.0"}'), "index.json": (0o644, json.dumps(index).encode()),
             "manifest.json": (0o644, json.dumps(listed).encode())} | blobs
    (OUT / f"{NAME}-{VERSION}-image-{arch}.tar").write_bytes(tar(with_parents(files)))


def main(*archs):
    for arch in archs or [arch for arch in DEBIAN if binary(arch).exists()]:
        deb(arch)
        ipk(arch)
        image(arch)
    files = sorted(path for path in OUT.iterdir() if path.name != "SHA256SUMS")
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (OUT / "SHA256SUMS").write_text(sums)


if __name__ == "__main__":
    main(*sys.argv[1:])
