"""The .deb files in a Debian tree of their own: installed, started as the unit says, upgraded, purged. `debian.py TREE DEB...`

The tree (debootstrap's, made if it is missing) is this machine's architecture; what is foreign runs under qemu's user emulation, and
dpkg is told not to mind."""

import os
import pathlib
import platform
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile

from root import Broker, Process, Root, main_job, wait_for, write

EMULATORS = {"amd64": "qemu-x86_64-static", "arm64": "qemu-aarch64-static", "armhf": "qemu-arm-static"}
OWN = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "armhf")


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}")
    return done.stdout


def check(condition, what):
    if not condition:
        sys.exit(f"wrong: {what}")


def make(tree):
    if (tree / "made").exists():
        return
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    site = run("apt-get", "indextargets", "--format", "$(SITE)", "Created-By: Packages", "Component: main").split()[0]
    suite = re.search(r"^VERSION_CODENAME=(\w+)", pathlib.Path("/etc/os-release").read_text(), re.MULTILINE)[1]
    run("debootstrap", "--variant=minbase", "--include=adduser", suite, tree, site)
    (tree / "made").touch()


class Debian:
    def __init__(self, tree, deb):
        self.tree, self.deb = tree, deb
        self.arch = run("dpkg-deb", "-f", deb, "Architecture").strip()
        emulator = None if self.arch == OWN else shutil.which(EMULATORS[self.arch])
        self.root = Root(tree, "/usr/bin/harmonylite", emulator, user="harmonylite:harmonylite")

    def chroot(self, *command):
        return run("chroot", self.tree, *command, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"})

    def dpkg(self, *arguments):
        return self.chroot("dpkg", "--force-architecture", "--force-confold", *arguments)

    def install(self, deb):
        shutil.copy2(deb, self.tree / "package.deb")
        self.dpkg("--install", "/package.deb")

    def passwd(self):
        found = [line.split(":") for line in (self.tree / "etc/passwd").read_text().splitlines()]
        return next(((int(line[2]), int(line[3])) for line in found if line[0] == "harmonylite"), None)

    def is_as(self, path, mode, uid=0, gid=0):
        found = (self.tree / path).stat()
        check((stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (mode, uid, gid), f"{path}: {found}")

    def installed(self):
        self.install(self.deb)
        uid, gid = self.passwd()
        self.is_as("usr/bin/harmonylite", 0o755)
        self.is_as("etc/harmonylite.toml", 0o640, 0, gid)
        self.is_as("var/lib/harmonylite", 0o750, uid, gid)
        self.is_as("usr/lib/systemd/system/harmonylite.service", 0o644)
        check(self.chroot("dpkg", "--verify", "harmonylite") == "", "dpkg --verify")
        check("harmonylite" in self.chroot("bash", "-c", ". /usr/share/bash-completion/completions/harmonylite; complete"),
              "completion")

    def started(self):
        """As systemd would: the unit's command as the unit's user, until it says that it is ready."""
        unit = (self.tree / "usr/lib/systemd/system/harmonylite.service").read_text()
        setting = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line)
        check((setting["User"], setting["Group"], setting["Type"]) == ("harmonylite", "harmonylite", "notify"), unit)
        check('"/var/lib/harmonylite"' in setting["ReadWritePaths"], unit)
        program, *arguments = setting["ExecStart"].replace('"', "").split()
        check(program == "/usr/bin/harmonylite", unit)
        uid, gid = self.passwd()
        database = self.tree / "var/lib/harmonylite/app.db"
        write(database, "PRAGMA journal_mode = WAL", "CREATE TABLE books(id INTEGER PRIMARY KEY, title TEXT)")
        os.chown(database, uid, gid)
        config = self.tree / "etc/harmonylite.toml"
        with tempfile.TemporaryDirectory() as store, Broker(store) as broker, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
            text = config.read_text().replace("nats://127.0.0.1:4222", broker.url).replace("# node_id", "node_id")
            config.write_text(text + "# mine\n")
            path = self.tree / "run/notify"
            path.unlink(missing_ok=True)
            told.bind(str(path))
            path.chmod(0o666)
            told.settimeout(60)
            with self.root.start(*arguments, env=os.environ | {"NOTIFY_SOCKET": "/run/notify"}) as daemon:
                said = ""
                while "READY=1" not in said:
                    try:
                        said = told.recv(4096).decode()
                    except TimeoutError:
                        sys.exit(f"the unit's command is not ready: {daemon.said()}")
                wait_for("caught up", lambda: "caught up" in daemon.said())
                check(daemon.stop() == 0, daemon.said())

    def upgraded(self):
        """To a package of a newer version with another conffile: what the user wrote stays, with its owner and mode."""
        with tempfile.TemporaryDirectory() as folder:
            run("dpkg-deb", "-R", self.deb, f"{folder}/x")
            about = pathlib.Path(folder, "x/DEBIAN/control")
            about.write_text(re.sub(r"^Version: .*", r"\g<0>+newer", about.read_text(), flags=re.MULTILINE))
            with pathlib.Path(folder, "x/etc/harmonylite.toml").open("a") as config:
                config.write("# of the newer version\n")
            run("dpkg-deb", "--root-owner-group", "-b", f"{folder}/x", f"{folder}/newer.deb")
            self.install(f"{folder}/newer.deb")
        check("+newer" in self.chroot("dpkg-query", "-W", "harmonylite"), "the version")
        check("# mine" in (self.tree / "etc/harmonylite.toml").read_text(), "the conffile was replaced")
        uid, gid = self.passwd()
        self.is_as("etc/harmonylite.toml", 0o640, 0, gid)
        self.is_as("var/lib/harmonylite", 0o750, uid, gid)
        check((self.tree / "var/lib/harmonylite/app.db").exists(), "the database")

    def purged(self):
        self.dpkg("--purge", "harmonylite")
        check((self.tree / "var/lib/harmonylite/app.db").exists() and self.passwd(), "the database and its owner must stay")
        for file in (self.tree / "var/lib/harmonylite").iterdir():
            shutil.rmtree(file) if file.is_dir() else file.unlink()
        self.install(self.deb)
        self.dpkg("--purge", "harmonylite")
        left = [path for path in ("var/lib/harmonylite", "etc/harmonylite.toml", "usr/bin/harmonylite") if (self.tree / path).exists()]
        check(not left and self.passwd() is None, f"left after the purge: {left} {self.passwd()}")


def main(tree, *debs):
    tree = pathlib.Path(tree)
    make(tree)
    for deb in debs:
        debian = Debian(tree, deb)
        debian.installed()
        debian.started()
        main_job(debian.root, "/var/lib/harmonylite/test", debian.passwd()[0])
        debian.upgraded()
        debian.purged()
        print(f"{deb}: installed, started, main job done, upgraded, purged")


if __name__ == "__main__":
    main(*sys.argv[1:])
