"""Tests of what .packaging/ builds with, that need no binary. `python3 -B tests/packages/test_packaging.py`"""

import pathlib
import subprocess
import sys
import tempfile
import tomllib
import unittest

PACKAGING = pathlib.Path(__file__).parents[2] / ".packaging"
sys.path.insert(0, str(PACKAGING))

import archives
import packages


class Archives(unittest.TestCase):
    def test_tar_and_dpkg_read_what_was_written(self):
        about = b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@localhost>\nDescription: x\n"
        control = archives.compressed(archives.tar({"/": (0o755, b""), "control": (0o644, about)}))
        files = archives.with_parents({"usr/bin/x": (0o755, b"odd"), "etc/y": (0o640, b""), "var/lib/x/": (0o750, b"")})
        data = archives.compressed(archives.tar(files))
        with tempfile.NamedTemporaryFile(suffix=".deb") as deb:
            deb.write(archives.ar([("debian-binary", b"2.0\n"), ("control.tar.gz", control), ("data.tar.gz", data)]))
            deb.flush()
            shown = subprocess.run(("dpkg-deb", "-c", deb.name), check=True, capture_output=True, text=True).stdout
            lines = [(line.split()[0], line.split()[1], line.split()[-1]) for line in shown.splitlines()]
            self.assertEqual(lines, [
                ("drwxr-xr-x", "root/root", "./"), ("drwxr-xr-x", "root/root", "./etc/"), ("-rw-r-----", "root/root", "./etc/y"),
                ("drwxr-xr-x", "root/root", "./usr/"), ("drwxr-xr-x", "root/root", "./usr/bin/"),
                ("-rwxr-xr-x", "root/root", "./usr/bin/x"), ("drwxr-xr-x", "root/root", "./var/"),
                ("drwxr-xr-x", "root/root", "./var/lib/"), ("drwxr-x---", "root/root", "./var/lib/x/")])
            field = subprocess.run(("dpkg-deb", "-f", deb.name, "Package"), check=True, capture_output=True, text=True).stdout
            self.assertEqual(field, "x\n")
        self.assertEqual(data, archives.compressed(archives.tar(files)))


class Sources(unittest.TestCase):
    def test_shells_can_read_every_script(self):
        scripts = [path for path in PACKAGING.rglob("*") if path.name in ("postinst", "prerm", "postrm")]
        self.assertEqual(len(scripts), 5)
        for shell, files in (("sh", scripts), ("bash", [*PACKAGING.glob("*.sh"), pathlib.Path(__file__).with_name("all.sh")])):
            for path in files:
                subprocess.run((shell, "-n", path), check=True)

    def test_the_configuration_can_be_read_and_names_what_the_packages_make(self):
        config = tomllib.loads((PACKAGING / "harmonylite.toml").read_text())
        self.assertEqual(config["db_path"], "/var/lib/harmonylite/app.db")
        self.assertEqual(packages.openwrt_config().count(b"/srv/harmonylite/app.db"), 1)
        self.assertNotIn(b"/var/", packages.openwrt_config())
        self.assertIn(b"It must be set.\n# node_id", packages.openwrt_config())


if __name__ == "__main__":
    unittest.main()
