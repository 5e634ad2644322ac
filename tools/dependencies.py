#!/usr/bin/env python3
"""Holds all dependencies, on every system that we build for, against tools/deny.toml: licenses, bans, sources.

That file is cargo-deny's, which finds the same (and advisories): `cargo deny --config tools/deny.toml check`. It is a program of
300 crates, though, and would be half of what the tests build.
"""

import itertools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What users install.
CRATES = ["Cargo.toml", "tools/python/Cargo.toml"]
REGISTRY = "registry+https://github.com/rust-lang/crates.io-index"
UNDERSTOOD = {
    "graph": {"targets", "all-features"}, "advisories": {"ignore"}, "licenses": {"allow", "unused-allowed-license"},
    "bans": {"multiple-versions", "wildcards", "deny"}, "sources": {"unknown-registry", "unknown-git"},
}


def accepts(expression, allowed):
    """Whether an SPDX expression can be met with these licenses: WITH binds first, then AND, then OR."""
    words = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def license():
        word = words.pop(0)
        if word == "(":
            met = any_of()
            words.pop(0)
            return met
        if words[:1] == ["WITH"]:
            word = f"{word} WITH {words[1]}"
            del words[:2]
        return word in allowed

    def joined(of, word):
        met = [of()]
        while words[:1] == [word]:
            del words[0]
            met.append(of())
        return met

    def all_of():
        return all(joined(license, "AND"))

    def any_of():
        return any(joined(all_of, "OR"))

    met = any_of()
    return met and not words


def wrong(package, rules):
    """What the rules have against a package."""
    name = f"{package['name']} {package['version']}"
    ours = package["source"] is None
    if not accepts(package["license"] or "none", rules["licenses"]["allow"]):
        yield f"{name}: its license is {package['license']}"
    for ban in rules["bans"]["deny"]:
        if package["name"] == ban["crate"]:
            yield f"{name}: {ban['reason']}"
    for wanted in package["dependencies"]:
        if wanted["req"] == "*" and not wanted.get("path") and (ours or wanted["kind"] != "dev"):
            yield f"{name}: wants any version of {wanted['name']}"
    if package["source"] not in (None, REGISTRY):
        yield f"{name}: it comes from {package['source']}"


def must_see():
    """A check that cannot fail is a defect."""
    rules = {"licenses": {"allow": ["MIT", "ISC"]}, "bans": {"deny": [{"crate": "bad", "reason": "bad"}]}}
    good = {"name": "a", "version": "1", "license": "GPL-3.0 OR (MIT AND ISC)", "source": REGISTRY, "dependencies": []}
    assert not list(wrong(good, rules))
    for change in ({"license": "GPL-3.0 AND (MIT OR ISC)"}, {"license": None}, {"license": "MIT WITH more"},
                   {"name": "bad"}, {"source": "git+https://git.example/a"},
                   {"dependencies": [{"name": "b", "req": "*", "kind": None}]}):
        assert len(list(wrong(good | change, rules))) == 1, change


def main():
    must_see()
    rules = tomllib.loads((ROOT / "tools/deny.toml").read_text())
    for section, keys in rules.items():
        if unknown := keys.keys() - UNDERSTOOD.get(section, set()):
            sys.exit(f"tools/deny.toml: [{section}] has what is not understood here: {' '.join(unknown)}")
    packages = {}
    for system, crate in itertools.product(rules["graph"]["targets"], CRATES):
        command = ["cargo", "metadata", "--locked", "--all-features", "--format-version", "1", "--filter-platform", system, "--manifest-path", crate]
        told = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
        used = {node["id"] for node in told["resolve"]["nodes"]}
        packages |= {package["id"]: package for package in told["packages"] if package["id"] in used}
    found = sorted(line for package in packages.values() for line in wrong(package, rules))
    names = [package["name"] for package in packages.values()]
    twice = sorted({name for name in names if names.count(name) > 1})
    print(*found, f"{len(packages)} packages, {len(found)} wrong; in several versions: {' '.join(twice) or 'none'}", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
