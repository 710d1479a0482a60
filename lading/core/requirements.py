"""The lock file, requirements.txt: what each extra needs, with the hash of every file.

Input: the file. Output: its packages, or those of some extras as pip reads them.
Invariant: standard library only, and nothing else of Lading: it runs before
the environment exists. The file as a whole is one that pip takes.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

BASE = "base"
OPTIONAL = "optional"  # each may fail to install
HEAD = """\
# Every package with the hashes of its files; `make lock` writes this from pyproject.toml. Above each package stand the
# extras that need it: base is what all need, optional what is built from its sources and may fail.
"""
_FOR = "# for: "


class LockedPackage(NamedTuple):
    """One package: the extras that need it, its version, and the hashes of its files."""

    groups: tuple[str, ...]
    pin: str
    hashes: tuple[str, ...]

    @property
    def text(self) -> str:
        """Return the lines that pip reads."""
        return " \\\n".join([self.pin, *(f"    --hash=sha256:{digest}" for digest in self.hashes)]) + "\n"


def read_lock(path: Path) -> list[LockedPackage]:
    """Return the packages of a lock file."""
    packages: list[LockedPackage] = []
    groups: tuple[str, ...] = ()
    for line in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if line.startswith(_FOR):
            groups = tuple(line[len(_FOR) :].split())
        elif line.strip() and not line.startswith("#"):
            pin, *hashes = line.split("--hash=sha256:")
            packages.append(LockedPackage(groups, pin.strip(), tuple(digest.strip() for digest in hashes)))
    return packages


def write_lock(path: Path, packages: Iterable[LockedPackage]) -> None:
    """Write a lock file."""
    blocks = [f"{_FOR}{' '.join(package.groups)}\n{package.text}" for package in packages]
    path.write_text(HEAD + "".join(f"\n{block}" for block in blocks), encoding="utf-8")


def select(packages: Iterable[LockedPackage], groups: Iterable[str]) -> str:
    """Return what pip reads for some extras."""
    wanted = set(groups)
    return "".join(package.text for package in packages if wanted.intersection(package.groups))
