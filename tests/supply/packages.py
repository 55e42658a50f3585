"""The packages of Cargo.lock, and which of them are shipped: what is compiled into the binary of `make release`."""

import json
import pathlib
import platform
import subprocess
import tomllib

# A build dependency whose sources are compiled into the binary all the same.
SOURCES = ("openssl-src",)
FEATURES = "static"


def target():
    return f"{platform.machine()}-unknown-linux-musl"


def cargo(*arguments):
    return subprocess.run(("cargo", *arguments), check=True, capture_output=True, text=True).stdout


def locked():
    """Name and version of every package of Cargo.lock."""
    lock = tomllib.loads((pathlib.Path(__file__).parents[2] / "Cargo.lock").read_text())
    return [{"name": package["name"], "version": package["version"]} for package in lock["package"]]


def shipped():
    """The shipped packages as `cargo metadata` describes them, in the order of their names; ours is left out."""
    said = json.loads(cargo("metadata", "--format-version", "1", "--locked", "--features", FEATURES,
                            "--filter-platform", target()))
    packages = {package["id"]: package for package in said["packages"]}
    nodes = {node["id"]: node for node in said["resolve"]["nodes"]}
    found, waiting = set(), [said["resolve"]["root"]]
    while waiting:
        for dependency in nodes[waiting.pop()]["deps"]:
            id, kinds = dependency["pkg"], [kind["kind"] for kind in dependency["dep_kinds"]]
            if id in found:
                continue
            if packages[id]["name"] in SOURCES:
                # What it needs itself runs while it is compiled.
                found.add(id)
            elif None in kinds:
                found.add(id)
                waiting.append(id)
    return sorted((packages[id] for id in found), key=lambda package: (package["name"], package["version"]))
