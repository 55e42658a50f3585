"""The OpenWrt packages and the container images: unpacked as their installers do it, and the main job done in what comes out.
`others.py FILE...`"""

import hashlib
import io
import json
import pathlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile

from root import Root, main_job

EMULATORS = {"x86_64": "qemu-x86_64-static", "aarch64": "qemu-aarch64-static", "arm": "qemu-arm-static"}


def check(condition, what):
    if not condition:
        sys.exit(f"wrong: {what}")


def emulator(arch):
    kind = next(kind for kind in EMULATORS if arch.startswith(kind))
    return None if platform.machine().startswith(kind) else shutil.which(EMULATORS[kind])


def unpack(content, folder, want=None):
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder)
        names = archive.getnames()
    check(want is None or names == want, f"members {names}")


def openwrt(path):
    """opkg reads the outer archive's three members, then the inner ones; procd's script is tried with a shell of OpenWrt's kind,
    and functions that note what it asks for."""
    with tempfile.TemporaryDirectory() as folder:
        outer, tree = pathlib.Path(folder, "outer"), pathlib.Path(folder, "tree")
        unpack(path.read_bytes(), outer, ["./debian-binary", "./data.tar.gz", "./control.tar.gz"])
        check((outer / "debian-binary").read_text() == "2.0\n", "debian-binary")
        unpack((outer / "control.tar.gz").read_bytes(), outer / "control")
        unpack((outer / "data.tar.gz").read_bytes(), tree)
        about = dict(line.split(": ", 1) for line in (outer / "control/control").read_text().splitlines() if line[0] != " ")
        arch = about["Architecture"]
        check(path.name == f"{about['Package']}_{about['Version']}_{arch}.ipk", about)
        for name in (outer / "control/conffiles").read_text().split():
            check((tree / name.lstrip("/")).is_file(), f"conffile {name}")
        for script in ("postinst", "prerm"):
            subprocess.run(("sh", "-n", outer / "control" / script), check=True)
            check((outer / "control" / script).stat().st_mode & 0o111, script)
        shell = """
            config_load() { . /dev/stdin <<EOF
$(sed -n "s/^.option \\([a-z]*\\) '\\(.*\\)'/uci_\\1='\\2'/p" "$ROOT/etc/config/$1")
EOF
            }
            config_get_bool() { eval "$1=\\${uci_$3:-$4}"; }
            config_get() { eval "$1=\\${uci_$3:-$4}"; }
            procd_open_instance() { echo open; }
            procd_set_param() { echo "$@"; }
            procd_close_instance() { echo close; }
            . "$ROOT/etc/init.d/harmonylite"
            start_service
        """
        shown = lambda: subprocess.run(("sh", "-euc", shell), env={"ROOT": str(tree), "PATH": "/usr/bin:/bin"}, check=True,
                                       capture_output=True, text=True).stdout
        check(shown() == "", "it must not start before it is enabled")
        config = tree / "etc/config/harmonylite"
        config.write_text(config.read_text().replace("enabled '0'", "enabled '1'"))
        check("command /usr/bin/harmonylite -config /etc/harmonylite.toml\n" in shown(), shown())
        (tree / "data").mkdir()
        main_job(Root(tree, "/usr/bin/harmonylite", emulator(arch)))
    print(f"{path.name}: unpacked, its service enabled, main job done")


def image(path):
    """The image's layer is the root, its user runs what the image says."""
    with tempfile.TemporaryDirectory() as folder:
        layout, tree = pathlib.Path(folder, "layout"), pathlib.Path(folder, "tree")
        unpack(path.read_bytes(), layout)

        def blob(part):
            content = (layout / "blobs" / part["digest"].replace(":", "/")).read_bytes()
            check((len(content), "sha256:" + hashlib.sha256(content).hexdigest()) == (part["size"], part["digest"]), part)
            return content

        index = json.loads((layout / "index.json").read_text())
        manifest = json.loads(blob(index["manifests"][0]))
        config = json.loads(blob(manifest["config"]))
        layer = blob(manifest["layers"][0])
        unpack(layer, tree)
        listed = json.loads((layout / "manifest.json").read_text())[0]
        check((layout / listed["Layers"][0]).read_bytes() == layer and (layout / listed["Config"]).is_file(), listed)
        if shutil.which("skopeo"):
            seen = subprocess.run(("skopeo", "inspect", "--config", f"oci-archive:{path}"), check=True, capture_output=True, text=True)
            check(json.loads(seen.stdout)["config"]["Entrypoint"] == ["/harmonylite"], seen)
            subprocess.run(("skopeo", "inspect", f"docker-archive:{path}"), check=True, capture_output=True)
        user = config["config"]["User"]
        check((tree / "data").stat().st_uid == int(user.split(":")[0]), "the owner of /data")
        root = Root(tree, config["config"]["Entrypoint"][0], emulator(path.stem.rsplit("-", 1)[1]), user=user)
        main_job(root, owner=int(user.split(":")[0]))
    print(f"{path.name}: digests right, main job done as user {user}")


if __name__ == "__main__":
    for name in map(pathlib.Path, sys.argv[1:]):
        openwrt(name) if name.suffix == ".ipk" else image(name)
