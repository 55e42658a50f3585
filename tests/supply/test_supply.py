"""Tests of the scripts beside this file. `python3 -B tests/supply/test_supply.py`."""

import json
import unittest

import advisories
import packages
import sbom
import third_party


class Licences(unittest.TestCase):
    def test_an_expression_is_accepted_when_accepted_licences_fulfil_it(self):
        for good in ("MIT", "MIT OR GPL-3.0-only", "Apache-2.0/MIT", "(MIT OR GPL-2.0) AND Unicode-3.0", "Apache-2.0 AND ISC",
                     "Apache-2.0 WITH LLVM-exception OR MIT"):
            self.assertTrue(third_party.accepted(good), good)
        for bad in ("", "GPL-3.0-only", "MIT AND GPL-3.0-only", "LGPL-2.1 OR GPL-2.0", "MIT OR", "(MIT", "MIT)", "MIT WITH x",
                    "(GPL-2.0 OR MIT) AND MPL-2.0"):
            self.assertFalse(third_party.accepted(bad), bad)

    def test_a_licence_that_is_not_accepted_ends_the_script(self):
        asked = packages.shipped
        packages.shipped = lambda: [asked()[0] | {"license": "AGPL-3.0-only"}]
        try:
            with self.assertRaisesRegex(SystemExit, "its licence is AGPL-3.0-only; accepted are 0BSD"):
                third_party.written()
        finally:
            packages.shipped = asked

    def test_a_c_library_that_nobody_listed_ends_the_script(self):
        with self.assertRaisesRegex(SystemExit, "it links bz2"):
            third_party.library({"name": "bzip2-sys", "links": "bz2"})

    def test_every_shipped_package_is_in_the_file_with_its_text(self):
        text = third_party.written()
        lacks, count = third_party.missing(text)
        self.assertEqual((lacks, count > 50), ([], True))
        for words in ("SQLite", "OpenSSL", "Zstandard", "libssh2", "zlib", "musl"):
            self.assertIn(words, text)
        for words in ("May you do good and not evil", "Jean-loup Gailly", "Meta Platforms", "Sara Golemon", "Apache License"):
            self.assertIn(words, text)
        index, rest = text.split("=" * 80, 1)
        without = index.replace("\nring ", "\nrung ") + "=" * 80 + rest
        self.assertEqual([name.split()[0] for name in third_party.missing(without)[0]], ["ring"])
        only_named = "=" * 80 + rest.replace("\nrusqlite ", "\nrustqlite ")
        self.assertIn("rusqlite", [name.split()[0] for name in third_party.missing(index + only_named)[0]])


class Bill(unittest.TestCase):
    def test_it_names_what_is_shipped_with_versions_licences_and_hashes(self):
        bill = sbom.written()
        found = {part["bom-ref"]: part for part in bill["components"]}
        for package in packages.shipped():
            part = found[f"pkg:cargo/{package['name']}@{package['version']}"]
            self.assertRegex(part["hashes"][0]["content"], "^[0-9a-f]{64}$")
            self.assertTrue(third_party.accepted(part["licenses"][0]["expression"]), part)
        libraries = {part["cpe"].split(":")[3]: part["version"] for part in found.values() if "cpe" in part}
        self.assertEqual(set(libraries), {"sqlite", "openssl", "libssh2", "zlib", "facebook"})
        for vendor, first in (("sqlite", "3."), ("openssl", "3."), ("libssh2", "1."), ("zlib", "1."), ("facebook", "1.")):
            self.assertRegex(libraries[vendor], rf"^{first}\d+", vendor)
        self.assertEqual(len(bill["dependencies"][0]["dependsOn"]), len(found))


class Advisories(unittest.TestCase):
    def test_versions_fulfil_requirements_as_cargo_says(self):
        for requirement, have, want in ((">= 0.100.2, < 0.101.0", "0.100.2", True), (">= 0.100.2, < 0.101.0", "0.101.0", False),
                                        (">= 1.2", "1.2.0", True), ("< 1.2.0", "1.2.0-rc.1", True), (">=1.2.0", "1.2.0-rc.1", False),
                                        ("^0.4.5", "0.4.9", True), ("^0.4.5", "0.5.0", False), ("^1.2", "1.9.0", True),
                                        ("^1.2", "2.0.0", False), ("1.2.3", "1.9.0", True), ("= 2.0.0", "2.0.0+build", True),
                                        ("<= 0.9.9", "0.9.10", False), ("> 0.9.9", "0.9.10", True), ("^0.0.3", "0.0.4", False),
                                        (">= 1.0.0-alpha.10", "1.0.0-alpha.9", False)):
            self.assertEqual(advisories.fits(requirement, have), want, (requirement, have))

    def test_patched_unaffected_and_withdrawn_are_no_hits(self):
        package = {"name": "a", "version": "1.5.0"}
        advisory = {"package": "a", "patched": [">= 1.6.0"], "unaffected": ["< 1.0.0"]}
        count = lambda **other: len(advisories.hits([package], [advisory | other]))
        self.assertEqual((count(), count(patched=[]), count(package="b")), (1, 1, 0))
        self.assertEqual((count(patched=[">= 1.5.0"]), count(unaffected=["< 2.0.0"]), count(withdrawn="2025-01-01")), (0, 0, 0))

    def test_every_requirement_of_the_stored_copy_can_be_read(self):
        stored = json.loads(advisories.STORED.read_text())
        self.assertGreater(len(stored["advisories"]), 1000)
        for advisory in stored["advisories"]:
            for requirement in advisory["patched"] + advisory["unaffected"]:
                advisories.fits(requirement, "1.0.0")

    def test_a_known_hit_is_found_and_what_is_shipped_is_told_from_what_tests_use(self):
        names = {package["name"] for package in packages.shipped()}
        self.assertTrue({"rusqlite", "ring", "openssl-src"} <= names)
        self.assertFalse({"nats", "aws-sigv4", "cc"} & names)
        old = json.loads(advisories.STORED.read_text())["advisories"]
        found = advisories.hits([{"name": "smallvec", "version": "1.6.0"}], old)
        self.assertIn("RUSTSEC-2021-0003", [advisory["id"] for _, advisory in found])


if __name__ == "__main__":
    unittest.main()
