"""What every data kind must do, and the nouns it speaks in.

Input: a source of one kind. Output: units of work, and for each unit a
result that is returned only after its output was read back from disk,
decoded and found equal to the source.
Invariant: a kind knows arrays and files; who runs its units, how many at
once and after which crash is not its business. No two units write one file.
"""

import argparse
import hashlib
import importlib
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import xxhash

from lading.core.errors import ConsistencyError, LadingError, UsageError
from lading.core.extras import require

# A destination's working directory is named so, and by a token that no source can know.
WORKING = ".lading-work-"

KINDS = ("ephys", "imaging", "video", "generic")
# What kinds that read files in parts write into their facts when ``lossy`` accounts for every byte of a file.
COVERAGE = 1
# What a kind needs beyond every installation; ffmpeg may be the site's.
EXTRAS = {"ephys": ("ephys",), "imaging": ("imaging",)}


class VerificationFailed(ConsistencyError):
    """Decoded output and source differ (exit 4): nothing of this unit counts as done."""


class SourceFault(LadingError):
    """The source is damaged or contradicts its own metadata (exit 1); the message names file and offset."""


class Refused(LadingError):
    """A unit cannot be done as planned (exit 1); ``what`` tells ``plan`` what to do otherwise.

    The next plan gets it in ``Job.facts["refused"]``, the new ones in ``Job.facts["redo"]``.
    """

    def __init__(self, message: str, what: str) -> None:
        super().__init__(message)
        self.what = what


def new_working_name() -> str:
    """Return a name for a working directory that nobody else has."""
    return WORKING + secrets.token_hex(16)


def check_working_name(name: str) -> str:
    """Return the name of a working directory, which is removed with all that is in it; ``ValueError`` for another."""
    if not re.fullmatch(re.escape(WORKING) + "[0-9a-f]{32}", name):
        raise ValueError(f"{name!r} is not the name of a working directory")
    return name


@dataclass(frozen=True)
class CompressionJob:
    """One source on its way to one destination.

    source       absolute; a file or a directory
    destination  absolute directory, or an ``s3://`` URL for kinds that write there
    options      of the kind, JSON values only, as its ``add_options`` declared them
    facts        what ``plan`` found out and every unit needs; JSON values only, empty while planning
    ranks        how many processes will share the work: plan at least ``40 × ranks`` units if the data allow
    working      name of the directory in a local destination that holds unfinished files; written down
                 in the state before it is made, so nothing else is ever taken for one
    links        the files of the source that are links, by path: [size, mtime_ns, ctime_ns, inode] of what
                 each led to when the job was planned; no other link is followed
    """

    source: Path
    destination: str
    kind: str
    options: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    ranks: int = 1
    working: str = field(default_factory=new_working_name)
    links: Mapping[str, Sequence[int]] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        """The destination as a local directory; ``UsageError`` when it is a URL."""
        if "://" in self.destination:
            raise UsageError(
                f"{self.kind}: {self.destination} is not a local directory; compress to a staging directory"
            )
        return Path(self.destination)


@dataclass(frozen=True)
class CompressionUnit:
    """A block of whole chunks, shards or files: the smallest thing that is claimed, redone or proven.

    id     unique in the job, stable over replans of the same source; at most 200 characters, may hold ``/``
    cost   uncompressed bytes, or as many as would take as long to compress, to start with the largest
    task   whatever ``run`` needs to find its block; JSON values only
    after  ids of units that must be done before
    """

    id: str
    cost: int
    task: Mapping[str, Any]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class CompressionPlan:
    """The units of a job and what they share; ``facts`` holds JSON values only.

    ``partly`` are the source files that units read in parts: each is read whole
    once more for its SHA-256, and compared with what the units read of it.
    """

    units: tuple[CompressionUnit, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    partly: tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    """One file that a unit wrote: path relative to the destination, size in bytes.

    ``hash`` is the ``digest`` of the file as it was read back, or empty where a kind keeps none:
    then ``--recheck`` can only compare sizes. ``sha256`` is of the same bytes.
    """

    path: str
    size: int
    hash: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class SourceFile:
    """A source file whose content the outputs carry: what was read of it, and its state when that was read.

    path    relative to the source, ``.`` for a source that is a file
    sha256  of the bytes that were read and compared with what the outputs give back
    lossy   what of the file no output carries; empty when all of it is carried
    """

    path: str
    size: int
    sha256: str
    mtime_ns: int
    ctime_ns: int
    inode: int
    device: int
    lossy: str = ""


@dataclass(frozen=True)
class Result:
    """What ``run`` returns once the decoded output equals the source.

    bytes_in, bytes_out  uncompressed and stored bytes
    source_hash          ``digest`` of the block as read from the source
    decoded_hash         ``digest`` of the block as decoded from what lies on disk (of the changed
                         values, where an option changed them: ``detail`` says how)
    codec                name and parameters that wrote this block (a fallback may differ from the plan)
    outputs              the files of this unit; a chunk that holds only the fill value may have none
    detail               anything else worth keeping; JSON values only
    sources              the files that this unit read whole
    reads                what the unit read of other files, as ``reads.Reads`` encodes it
    """

    bytes_in: int
    bytes_out: int
    source_hash: str
    decoded_hash: str
    codec: str
    outputs: tuple[Output, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[SourceFile, ...] = ()
    reads: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class UnitRecord:
    """A result with who made it and how long it took: the record in a unit's marker file."""

    unit: str
    worker: str
    seconds: float
    result: Result


class Kind(Protocol):
    """What a module ``lading.compress.<kind>.<kind>_plan`` offers (plain functions of the module)."""

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Declare the kind's flags; their destinations become ``CompressionJob.options``."""

    def plan(self, job: CompressionJob) -> CompressionPlan:
        """Inspect the source, create array metadata in the destination, return the units.

        Runs in one process before any unit and again after a crash, so it must
        be repeatable. Raises ``SourceFault`` or ``UsageError`` for anything it
        can know beforehand: all faults at once.
        """

    def estimate(self, job: CompressionJob) -> list[str]:
        """Return what a person is told of the outputs before anything is written; raises as ``plan``."""

    def secret(self, job: CompressionJob) -> str | None:
        """Return the password that the options name, None where no output has one; ``UsageError`` when it lacks."""

    def run(self, job: CompressionJob, unit: CompressionUnit) -> Result:
        """Compress one unit, read it back from disk, decode, compare, and only then return.

        Runs in any process, any number of times, with equal output each time.
        Files appear by rename. Raises ``VerificationFailed`` or ``SourceFault``.
        """

    def finish(self, job: CompressionJob, markers: Iterable[UnitRecord]) -> Mapping[str, Any]:
        """Write what only makes sense when every unit is done; return facts for compress.json.

        Repeatable. Runs in one process.
        """

    def lossy(self, job: CompressionJob, file: Any) -> str:
        """Return what of a file in ``CompressionPlan.partly`` no output carries; empty when all is carried."""


def load_kind(name: str) -> Kind:
    """Return the module of a data kind; imports its libraries."""
    if name not in KINDS:
        raise UsageError(f"{name!r} is not a data kind; give one of {', '.join(KINDS)}")
    require(EXTRAS.get(name, ()))
    return cast(Kind, importlib.import_module(f"lading.compress.{name}.{name}_plan"))


def new_digest() -> Any:
    """Return a digest to feed block by block; ``hexdigest`` of it is that of ``digest``."""
    return xxhash.xxh3_128()


def digest(*blocks: Any) -> str:
    """Return the XXH3-128 hex digest of buffers one after the other (25 GB/s: guards against faults, not forgers).

    A buffer is bytes or a C-contiguous array. Same text as ``xxhsum -H2``.
    """
    state = xxhash.xxh3_128()
    for block in blocks:
        state.update(block)
    return state.hexdigest()


class Measured(NamedTuple):
    """A file as it was read back: its size, ``digest`` and SHA-256."""

    size: int
    hash: str
    sha256: str


class BlockDigest:
    """Size, ``digest`` and SHA-256 of what was fed block by block."""

    def __init__(self) -> None:
        self.size = 0
        self._fast, self._strong = xxhash.xxh3_128(), hashlib.sha256()

    def update(self, block: Any) -> None:
        """Add a block of bytes."""
        self.size += len(block)
        self._fast.update(block)
        self._strong.update(block)

    @property
    def hash(self) -> str:
        """The ``digest`` of what was fed so far."""
        return str(self._fast.hexdigest())

    @property
    def sha256(self) -> str:
        """The SHA-256 of what was fed so far, in hex."""
        return self._strong.hexdigest()


def fold_digests(digests: Iterable[str]) -> str:
    """Return the SHA-256 hex digest of digests in order, one a line: the checksum of a whole source."""
    state = hashlib.sha256()
    for item in digests:
        state.update(item.encode("ascii") + b"\n")
    return state.hexdigest()


def walk_files(source: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield (path relative to ``source``, status) of every file below, sorted; of the file itself for a file.

    A source is taken whole or not at all: raises, after the last file, ``SourceFault`` naming everything that
    no kind takes: directories that cannot be listed, links to directories, which none follows, links that lead
    nowhere, and FIFOs, sockets and devices, which would be waited for when opened.
    """
    for path, status, _ in walk_links(source):
        yield path, status


def walk_links(source: Path) -> Iterator[tuple[str, os.stat_result, bool]]:
    """Yield what ``walk_files`` does and whether the path is a link, whose status is that of what it leads to."""
    if not source.is_dir():
        status = source.stat()
        yield ".", status, source.is_symlink()
        _refuse_odd([str(source)] if not stat.S_ISREG(status.st_mode) else [], [], [])
        return
    unread: list[OSError] = []
    special: list[str] = []
    links: list[str] = []
    for directory, names, files in os.walk(source, onerror=unread.append):
        names.sort()
        links += [path for name in names if os.path.islink(path := os.path.join(directory, name))]
        for name in sorted(files):
            path = os.path.join(directory, name)
            try:
                status = os.lstat(path)
                link = stat.S_ISLNK(status.st_mode)
                if link:
                    status = os.stat(path)
            except OSError as error:
                unread.append(error)
                continue
            if not stat.S_ISREG(status.st_mode):
                special.append(path)
            yield os.path.relpath(path, source), status, link
    _refuse_odd(special, links, unread)


def _refuse_odd(special: Iterable[str], links: Iterable[str], unread: Iterable[OSError]) -> None:
    faults = [f"{error.filename}: cannot be read: {error.strerror}; make it readable" for error in unread]
    faults += [
        f"{path}: is a FIFO, socket or device, and holds nothing to compress; remove it or leave it out"
        for path in special
    ]
    faults += [f"{link}: is a link to a directory; put the files there or leave it out" for link in links]
    if faults:
        raise SourceFault("\n".join(faults))
