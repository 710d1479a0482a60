"""A release with planted faults, for the tests and the benchmark of the sign-off.

Input: a directory, a number of files, a number of faults of each kind. Output: files, and every finding that a sign-off
must have.
Invariant: what is not among the expected findings is clean by all checks, also those that are off by default.
"""

import hashlib
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lading.signoff.sum_files import format_sum

EACH_DIRECTORY = 1000
CLEAN = "spectro"  # the part without errors, which can be uploaded
OLD = 1_700_000_000  # seconds: when the content was made
FROZEN = OLD + 1000
NOBODY = 2_000_000_011  # no account has it
STRANGER = 1  # daemon, which every system knows
CROWD = 2 * EACH_DIRECTORY
# What the planted release is compared with; files are root's, or those of whoever makes them.
FLAGS = ("--file-mode", "0444", "--directory-mode", "0555", "--freeze", "2023-11-15T00:00:00Z", "--crowd", str(CROWD))
# All that is off by default and can be planted, and what would be found everywhere.
CHECKS = (
    "group-writable=error,owner-writable=error,executable=error,sparse=error,link=error,world-readable=off,"
    "not-world-readable=error,changed-after-freeze=off"
)


@dataclass
class PlantedRelease:
    """A release below ``root``; ``expected`` holds (kind, path) of each finding that there must be."""

    root: Path
    expected: set[tuple[str, str]] = field(default_factory=set)
    files: int = 0
    sums: dict[str, list[bytes]] = field(default_factory=dict)

    def make(self, files: int, each: int) -> None:
        """Make a clean release of about so many files, then plant so many faults of each kind."""
        self.root.mkdir(parents=True, exist_ok=True)
        for number in range(max(1, files // EACH_DIRECTORY)):
            self._make_directory(f"{CLEAN}/night{number // 100:03d}/tile{number:05d}", min(files, EACH_DIRECTORY))
        for number in range(each):
            place = f"planted{number:04d}"
            self.add(f"{place}/clean.fits", b"clean %d" % number)
            for name, plant in PLANTS.items():
                if name not in NEEDS_ROOT or os.getuid() == 0:
                    plant(self, f"{place}/{name}")
        self._write_sums()
        for folder, names, _ in os.walk(self.root, onerror=_fail):
            for name in names:
                path = os.path.join(folder, name)
                if not os.path.islink(path) and stat.S_IMODE(os.lstat(path).st_mode) == umasked(0o777):
                    os.chmod(path, 0o555)
        os.chmod(self.root, 0o555)

    @property
    def kinds(self) -> set[str]:
        """The kinds that were planted."""
        return {kind for kind, _ in self.expected}

    def _make_directory(self, path: str, count: int) -> None:
        for number in range(count):
            self.add(f"{path}/spectra-{number:05d}.fits", b"%s %d" % (path.encode(), number) * 3)

    def expect(self, path: str, *kinds: str) -> None:
        """Note what must be found of a path."""
        self.expected.update((kind, path) for kind in kinds)

    def add(self, path: str, content: bytes = b"x", *, sum_of: bytes | None = None, summed: bool = True) -> str:
        """Make a sound file; its checksum, or that of other bytes, goes into its directory's."""
        place = self.path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        self.finish(path)
        self.files += 1
        if summed:
            directory, _, name = path.rpartition("/")
            digest = hashlib.sha256(content if sum_of is None else sum_of).hexdigest()
            self.sums.setdefault(directory, []).append(format_sum(digest, name))
        return path

    def path(self, path: str) -> Path:
        """Return where a path of the release is."""
        return self.root / path

    def finish(self, path: str, mode: int = 0o444, seconds: int = OLD) -> None:
        """Give a file its mode and its time."""
        os.chmod(self.path(path), mode)
        os.utime(self.path(path), (seconds, seconds))

    def write_sums(self, path: str, lines: bytes) -> None:
        """Make a checksum file."""
        self.add(path, lines, summed=False)

    def _write_sums(self) -> None:
        for number, (directory, lines) in enumerate(sorted(self.sums.items())):
            name = ("SHA256SUMS", f"{os.path.basename(directory)}.sha256sum", "sha256sum.txt")[number % 3]
            self.write_sums(f"{directory}/{name}", b"".join(lines))


def _fail(error: OSError) -> None:
    raise error


def umasked(mode: int) -> int:
    """Return the mode that new directories have."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mode & ~mask


Plant = Callable[[PlantedRelease, str], None]
PLANTS: dict[str, Plant] = {}
NEEDS_ROOT = {"owner", "group", "unknown-owner", "unknown-group", "device"}


def _plant(name: str) -> Callable[[Plant], Plant]:
    def take(plant: Plant) -> Plant:
        PLANTS[name] = plant
        return plant

    return take


def _moded(name: str, mode: int, *more: str) -> None:
    @_plant(name)
    def plant(release: PlantedRelease, path: str) -> None:
        release.add(f"{path}.fits")
        release.finish(f"{path}.fits", mode)
        release.expect(f"{path}.fits", name, "file-mode", *more)


_moded("private", 0o400, "not-world-readable")
_moded("not-world-readable", 0o440)
_moded("world-writable", 0o446)
_moded("group-writable", 0o464)
_moded("owner-writable", 0o644)
_moded("executable", 0o555)
_moded("set-id", 0o4544, "executable")


@_plant("directory-mode")
def _(release: PlantedRelease, path: str) -> None:
    release.add(f"{path}/inner.fits")
    os.chmod(release.path(path), 0o750)
    release.expect(path, "directory-mode", "not-world-readable", "owner-writable")


for _name, _uid, _gid, _kinds in (
    ("owner", STRANGER, -1, ("owner",)),
    ("group", -1, STRANGER, ("group",)),
    ("unknown-owner", NOBODY, -1, ("owner", "unknown-owner")),
    ("unknown-group", -1, NOBODY, ("group", "unknown-group")),
):

    @_plant(_name)
    def _(
        release: PlantedRelease, path: str, uid: int = _uid, gid: int = _gid, kinds: tuple[str, ...] = _kinds
    ) -> None:
        release.add(f"{path}.fits")
        os.chown(release.path(f"{path}.fits"), uid, gid)
        release.expect(f"{path}.fits", *kinds)


@_plant("empty-file")
def _(release: PlantedRelease, path: str) -> None:
    release.expect(release.add(f"{path}.fits", b""), "empty-file")


@_plant("empty-directory")
def _(release: PlantedRelease, path: str) -> None:
    release.path(path).mkdir(parents=True)
    release.expect(path, "empty-directory")


for _name, _ending, _kinds in (
    ("hidden", ".secret.fits", ("hidden",)),
    ("leftover", "spectra.fits.tmp", ("leftover",)),
    ("control-character", "new\nline.fits", ("control-character",)),
    ("not-utf8", "caf\udce9.fits", ("not-utf8",)),
    ("leading-dash", "-rf.fits", ("leading-dash",)),
    ("outer-space", " lead.fits", ("outer-space",)),
    ("windows-character", "what?.fits", ("windows-character",)),
    ("avoided-character", "50%.fits", ("avoided-character",)),
    ("windows-name", "AUX.fits", ("windows-name",)),
    ("windows-ending", "dot.fits.", ("windows-ending",)),
    ("not-composed", "cafe\u0301.fits", ("not-composed",)),
):

    @_plant(_name)
    def _(release: PlantedRelease, path: str, ending: str = _ending, kinds: tuple[str, ...] = _kinds) -> None:
        release.expect(release.add(f"{path}/{ending}"), *kinds)


@_plant("case-collision")
def _(release: PlantedRelease, path: str) -> None:
    release.add(f"{path}/Map.fits")
    release.expect(release.add(f"{path}/map.fits"), "case-collision")


@_plant("unicode-collision")
def _(release: PlantedRelease, path: str) -> None:
    release.expect(release.add(f"{path}/caf\u00e9.fits"), "unicode-collision")
    release.expect(release.add(f"{path}/cafe\u0301.fits"), "not-composed")


@_plant("long-key")
def _(release: PlantedRelease, path: str) -> None:
    name = f"{path}/" + "/".join(["long" * 50] * 5)
    release.expect(release.add(f"{name}/{'n' * 50}", summed=False), "long-key", "windows-length")
    place, _, inner = f"{name}/{'n' * 50}".partition("/")
    release.sums[place].append(format_sum(hashlib.sha256(b"x").hexdigest(), inner))
    parts = name.split("/")
    for count in range(3, len(parts) + 1):
        above = "/".join(parts[:count])
        if len(above) > 240:
            release.expect(above, "windows-length", *(["long-key"] if len(above) > 1024 else []))


@_plant("windows-length")
def _(release: PlantedRelease, path: str) -> None:
    release.expect(release.add(f"{path}/{'n' * 230}.fits"), "windows-length")


@_plant("fifo")
def _(release: PlantedRelease, path: str) -> None:
    os.mkfifo(release.path(path))
    release.expect(path, "fifo")


@_plant("socket")
def _(release: PlantedRelease, path: str) -> None:
    here = os.getcwd()
    os.chdir(release.path(path).parent)  # the path of a socket has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("socket")
    finally:
        os.chdir(here)
    release.expect(path, "socket")


@_plant("device")
def _(release: PlantedRelease, path: str) -> None:
    os.mknod(release.path(path), stat.S_IFCHR | 0o444, os.makedev(1, 3))
    release.expect(path, "device")


@_plant("hard-link")
def _(release: PlantedRelease, path: str) -> None:
    release.add(f"{path}-a.fits", b"twice")
    digest = hashlib.sha256(b"twice").hexdigest()
    directory, _, name = path.rpartition("/")
    os.link(release.path(f"{path}-a.fits"), release.path(f"{path}-b.fits"))
    release.sums[directory].append(format_sum(digest, f"{name}-b.fits"))
    for ending in "ab":
        release.expect(f"{path}-{ending}.fits", "hard-link")


@_plant("sparse")
def _(release: PlantedRelease, path: str) -> None:
    size = 1 << 20
    release.add(f"{path}.fits", b"", sum_of=bytes(size))
    os.chmod(release.path(f"{path}.fits"), 0o644)
    os.truncate(release.path(f"{path}.fits"), size)
    release.finish(f"{path}.fits")
    release.expect(f"{path}.fits", "sparse")


@_plant("crowded")
def _(release: PlantedRelease, path: str) -> None:
    if path.startswith("planted0000/"):
        for number in range(CROWD):
            release.add(f"{path}/{number:05d}.fits")
        release.expect(path, "crowded")


for _name, _seconds, _kinds in (
    ("future", int(time.time()) + 10 * 86400, ("future", "newer-than-freeze")),
    ("no-time", 0, ("no-time",)),
    ("newer-than-freeze", FROZEN + 10 * 86400, ("newer-than-freeze",)),
):

    @_plant(_name)
    def _(release: PlantedRelease, path: str, seconds: int = _seconds, kinds: tuple[str, ...] = _kinds) -> None:
        release.add(f"{path}.fits")
        release.finish(f"{path}.fits", seconds=seconds)
        release.expect(f"{path}.fits", *kinds)


for _name, _target, _led in (
    ("link", "clean.fits", ("link",)),
    ("directory-link", ".", ("link", "directory-link")),
    ("absolute-link", "{root}/planted0000/clean.fits", ("link", "absolute-link")),
    ("dangling-link", "nowhere.fits", ("link", "dangling-link")),
    ("link-loop", "link-loop", ("link", "link-loop")),
    ("outside-link", "../..", ("link", "directory-link", "outside-link")),
):

    @_plant(_name)
    def _(release: PlantedRelease, path: str, target: str = _target, kinds: tuple[str, ...] = _led) -> None:
        os.symlink(target.format(root=release.root), release.path(path))
        release.expect(path, *kinds)


def _summed(name: str, line: Callable[[str], bytes], subject: str) -> None:
    """Plant a checksum file of one line beside a sound file; the finding is of ``subject`` there."""

    @_plant(name)
    def plant(release: PlantedRelease, path: str) -> None:
        release.add(f"{path}/inner.fits", b"inner")
        release.write_sums(f"{path}/other.md5", line(str(release.root)))
        release.expect(f"{path}/{subject}".rstrip("/"), name)


_INNER = hashlib.md5(b"inner", usedforsecurity=False).hexdigest().encode()
_summed("sum-without-file", lambda _: _INNER + b" *gone.fits\r\n", "gone.fits")
_summed("sum-line", lambda _: _INNER + b"  inner.fits\nnot a line\n", "other.md5")
_summed("sum-algorithm", lambda _: hashlib.sha1(b"inner").hexdigest().encode() + b"  inner.fits\n", "other.md5")
_summed("sum-outside", lambda _: _INNER + b"  ../../../elsewhere\n", "other.md5")
_summed("sum-absolute", lambda root: _INNER + f"  {root}/planted0000/sum-absolute/inner.fits\n".encode(), "other.md5")
_summed("sum-not-file", lambda _: _INNER + b"  ../sum-not-file\n", "")
_summed("sum-repeated", lambda _: 2 * (b"MD5 (inner.fits) = " + _INNER + b"\n"), "other.md5")
_summed("sum-empty", lambda _: b"# nothing\n", "other.md5")


@_plant("sum-differs")
def _(release: PlantedRelease, path: str) -> None:
    release.expect(release.add(f"{path}.fits", b"flipped byte", sum_of=b"flipped bite"), "sum-differs")


@_plant("file-without-sum")
def _(release: PlantedRelease, path: str) -> None:
    release.expect(release.add(f"{path}.fits", summed=False), "file-without-sum")


def found_in(findings: Iterator[dict[str, str]]) -> set[tuple[str, str]]:
    """Return findings as (kind, path), to compare with what was expected."""
    return {(one["kind"], one["path"]) for one in findings}
