"""``make lock``: write requirements.txt, every package with the hashes of its files, from pyproject.toml.

Input: pyproject.toml, and the package index that pip is set up for. Output:
requirements.txt: above each package the extras that need it (``base``: all of
them), its version, and the hash of its file for each Python and machine.
Invariant: equal answers of the index give equal bytes; no host is named. Run
by the environment's Python; nothing of the product imports it.
"""

import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lading.core.command_line import Parser, run_main
from lading.core.errors import LadingError
from lading.core.requirements import BASE, OPTIONAL, LockedPackage, write_lock

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
MACHINES = ("x86_64", "aarch64")
# The glibc of a wheel, as pip on such a machine takes it: each by itself, for pip derives none from another.
PLATFORMS = (*(f"manylinux_2_{minor}_{{}}" for minor in range(35, 4, -1)), "manylinux2014_{}")
# Built where they are installed, or they are not there: their sources are what is hashed.
BUILT = {"wavpack-numcodecs": "wavpack-numcodecs==0.3.0", "pyminizip": "pyminizip==0.2.6"}
# Of these the sources too: a site's own MPI wants its own mpi4py.
SOURCES = ("mpi4py",)
FOR_THE_BUILD = "setuptools>=77"
_LACKING = re.compile(r"No matching distribution found for ([A-Za-z0-9._-]+?)==")


class Unavailable(Exception):
    """The index has no file of a package for what was asked."""


def ask_pip(*arguments: str) -> list[dict[str, Any]]:
    """Return what pip would install, without installing it."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        done = subprocess.run(
            [*command, "--target", f"{directory}/t", "--report", str(report), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unavailable(done.stderr[-2000:])
        return list(json.loads(report.read_text())["install"])


def hash_of(item: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a file that pip would install."""
    return str(item["download_info"]["archive_info"]["hashes"]["sha256"])


def name_of(item: Mapping[str, Any]) -> str:
    """Return the name of a package as the index spells it."""
    return canonicalize_name(item["metadata"]["name"])


def read_groups() -> dict[str, list[Requirement]]:
    """Return what pyproject.toml asks for, by extra, references between extras resolved."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras: dict[str, list[str]] = project["optional-dependencies"]

    def expand(lines: Iterable[str]) -> Iterator[Requirement]:
        for line in lines:
            requirement = Requirement(line)
            if requirement.name != project["name"]:
                yield requirement
                continue
            for extra in requirement.extras:
                yield from expand(extras[extra])

    groups = {BASE: [*expand(project["dependencies"]), Requirement(FOR_THE_BUILD)]}
    return groups | {name: list(expand(lines)) for name, lines in extras.items() if name != "all"}


def reach(wanted: Iterable[Requirement], found: Mapping[str, dict[str, Any]], python: str) -> dict[str, None]:
    """Return the packages that requirements lead to under a Python; ``KeyError`` names one that is not there."""
    environment = {"python_version": python, "python_full_version": f"{python}.1"}
    seen: dict[str, None] = {}
    todo = [(requirement, "") for requirement in wanted]
    done = set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({**environment, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name not in found:
            raise KeyError(str(requirement))
        seen[name] = None
        needs = [Requirement(line) for line in found[name]["metadata"].get("requires_dist", ())]
        for chosen in ("", *requirement.extras):
            if (name, chosen) not in done:
                done.add((name, chosen))
                todo += [(need, chosen) for need in needs]
    return seen


def resolve(groups: Mapping[str, list[Requirement]]) -> dict[str, dict[str, Any]]:
    """Return one version of everything, for all Pythons; what only a newer one needs is asked for by name."""
    wanted = sorted({str(requirement) for group in groups.values() for requirement in group})
    while True:
        found = {name_of(item): item for item in ask_pip("--only-binary=:all:", *wanted)}
        try:
            for python in PYTHONS:
                reach([requirement for group in groups.values() for requirement in group], found, python)
        except KeyError as error:
            wanted.append(str(Requirement(error.args[0].partition(";")[0])))
            continue
        return found


def hashes(pins: Mapping[str, str], python: str, machine: str) -> dict[str, str]:
    """Return the hash of each package's file for a Python and a machine; without those that have none."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name.format(machine))]
    left = dict(pins)
    fixed = ["--no-deps", "--only-binary=:all:", "--python-version", python, *platforms]
    while left:
        try:
            return {name_of(item): hash_of(item) for item in ask_pip(*fixed, *left.values())}
        except Unavailable as error:
            lacking = {canonicalize_name(name) for name in _LACKING.findall(str(error))} & left.keys()
            if not lacking:
                raise
            print(f"lock: for Python {python} on {machine} no file of {', '.join(lacking)}", file=sys.stderr)
            left = {name: pin for name, pin in left.items() if name not in lacking}
    return {}


def lock() -> list[LockedPackage]:
    """Return every package with its hashes, sorted by name."""
    groups = read_groups()
    found = resolve(groups)
    pins = {name: f"{name}=={item['metadata']['version']}" for name, item in sorted(found.items())}
    digests: dict[str, set[str]] = {name: {hash_of(item)} for name, item in found.items()}
    for python in PYTHONS:
        for machine in MACHINES:
            for name, digest in hashes(pins, python, machine).items():
                digests[name].add(digest)
    for name in SOURCES:
        digests[name].add(hash_of(ask_pip("--no-deps", "--no-binary", name, pins[name])[0]))
    needed = {python: {group: reach(wanted, found, python) for group, wanted in groups.items()} for python in PYTHONS}
    locked = []
    for name, pin in pins.items():
        pythons = [python for python in PYTHONS if any(name in names for names in needed[python].values())]
        if not pythons:
            continue
        marker = "" if len(pythons) == len(PYTHONS) else _marker(pythons)
        of = tuple(group for group in groups if any(name in needed[python][group] for python in pythons))
        locked.append(LockedPackage(of, pin + marker, tuple(sorted(digests[name]))))
    for name, pin in BUILT.items():
        item = ask_pip("--no-deps", "--no-binary", name, pin)[0]
        locked.append(LockedPackage((OPTIONAL,), pin, (hash_of(item),)))
    return locked


def _marker(pythons: list[str]) -> str:
    """Return the condition for some of the Pythons, the first ones or the last ones."""
    if pythons[0] == PYTHONS[0]:
        return f" ; python_version < '{PYTHONS[PYTHONS.index(pythons[-1]) + 1]}'"
    return f" ; python_version >= '{pythons[0]}'"


def main(argv: Sequence[str] | None = None) -> int:
    """Write the lock file."""
    Parser(prog="make lock", description="Write requirements.txt, the lock, from pyproject.toml.").parse_args(argv)
    try:
        write_lock(ROOT / "requirements.txt", lock())
    except Unavailable as error:
        raise LadingError(f"pip does not find the packages of pyproject.toml: {error}") from error
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
