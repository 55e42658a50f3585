"""Matches Cargo.lock against fixtures/advisories.json, a stored copy of what RustSec's advisory database says. A hit on a shipped
package fails. `advisories.py renew CLONE` makes the copy anew from a clone of the repository RustSec/advisory-db."""

import datetime
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import packages

STORED = pathlib.Path(__file__).parents[2] / "fixtures" / "advisories.json"
# Hits on packages that only tests use: they do not fail. One without a reason here does, so that somebody looks at it.
REASONS = {
    "json": "comes with the test client nats 0.26, which reads what our own servers on loopback say",
    "rustls-webpki": "comes with the test client nats 0.26, which speaks no TLS in our tests",
    "rustls-pemfile": "unmaintained, comes with the test client nats 0.26",
    "instant": "unmaintained, comes with the test client nats 0.26",
}


def version(text):
    """Something that compares as SemVer does: a pre-release stands before its release."""
    release, _, pre = text.split("+")[0].partition("-")
    numbers = [int(number) for number in release.split(".")]
    parts = [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in pre.split(".")] if pre else []
    return numbers + [0] * (3 - len(numbers)), not pre, parts


def caret(text):
    """The first version that `^text` does not allow: one more at the first number that is not 0."""
    numbers = [int(number) for number in text.split("-")[0].split("+")[0].split(".")]
    at = next((at for at, number in enumerate(numbers) if number), len(numbers) - 1)
    return version(".".join(map(str, [*numbers[:at], numbers[at] + 1])) + "-0")


def fits(requirement, have):
    """Whether a version fulfils a requirement such as `>= 0.100.2, < 0.101.0`."""
    for part in requirement.split(","):
        sign, text = re.fullmatch(r"\s*(>=|<=|>|<|=|\^|)\s*(\S+)\s*", part).groups()
        want, have_it = version(text), version(have)
        good = {">=": have_it >= want, "<=": have_it <= want, ">": have_it > want, "<": have_it < want, "=": have_it == want}
        if not good.get(sign, have_it >= want and have_it < caret(text)):
            return False
    return True


def hits(locked, advisories):
    """Pairs of package and advisory: neither patched nor unaffected, and not withdrawn."""
    by_name = {}
    for advisory in advisories:
        by_name.setdefault(advisory["package"], []).append(advisory)
    return [(package, advisory) for package in locked for advisory in by_name.get(package["name"], [])
            if not advisory.get("withdrawn")
            and not any(fits(known, package["version"]) for known in advisory["patched"] + advisory["unaffected"])]


def renewed(clone):
    """The copy, from the newest commit of a clone."""
    git = lambda *arguments: subprocess.run(("git", "-C", clone, *arguments), check=True, capture_output=True, text=True).stdout
    kept = []
    for path in git("ls-tree", "-r", "--name-only", "HEAD", "crates").splitlines():
        whole = tomllib.loads(git("show", f"HEAD:{path}").split("```toml")[1].split("```")[0])
        about, versions = whole["advisory"], whole.get("versions", {})
        one = {"id": about["id"], "package": about["package"], "patched": versions.get("patched", []),
               "unaffected": versions.get("unaffected", [])}
        one |= {key: str(about[key]) for key in ("informational", "withdrawn") if key in about}
        kept.append(json.dumps(one))
    day = datetime.datetime.fromisoformat(git("log", "-1", "--format=%cI").strip()).date()
    return f'{{"date": "{day}", "advisories": [\n' + ",\n".join(sorted(kept)) + "\n]}\n"


def main():
    if sys.argv[1:2] == ["renew"]:
        STORED.write_text(renewed(sys.argv[2]))
        return
    stored = json.loads(STORED.read_text())
    locked = packages.locked()
    shipped = {(package["name"], package["version"]) for package in packages.shipped()}
    fatal = 0
    for package, advisory in hits(locked, stored["advisories"]):
        is_shipped = (package["name"], package["version"]) in shipped
        why = "SHIPPED" if is_shipped else REASONS.get(package["name"], "only tests use it, and nobody has given a reason to keep it")
        fatal += is_shipped or package["name"] not in REASONS
        kind = advisory.get("informational", "vulnerability")
        print(f"{package['name']} {package['version']}: {advisory['id']} ({kind}): {why}")
    print(f"{len(locked)} packages, {len(shipped)} of them shipped, against {len(stored['advisories'])} advisories of {stored['date']}")
    sys.exit(1 if fatal else 0)


if __name__ == "__main__":
    main()
