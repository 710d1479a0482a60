"""The log of a manifest's scrubs: which bytes were read when, and what was wrong with them.

Input: records of runs. Output: ``NAME.scrub.jsonl`` beside the manifest, log lines (``lading.core.atomic``) each of
which holds the SHA-256 of the line before it.
Invariant: lines are only ever appended. A line that was changed, removed from the middle or put in breaks the chain,
and a log with a broken chain is refused. A proof counts for rows that are the same in every member that names bytes
(``manifest_spans.py``), so a newer manifest keeps the proofs of what did not change.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lading.coordination.kernel_lock import try_lock
from lading.core.atomic import AppendLog, decode_record, encode_record
from lading.core.bounded import INT64, JsonMembers, lines_of
from lading.core.errors import ConsistencyError, LockHeldError, UsageError
from lading.core.version import provenance
from lading.verification.manifest import ManifestHeader

FORMAT = 1
START = "0" * 64  # what the first line holds in place of a digest
MOST_OPEN = 1_000_000  # objects known to be wrong that are held in memory
DAMAGED, UNREADABLE = "damaged", "unreadable"


@dataclass(frozen=True, slots=True)
class OpenFinding:
    """An object that a scrub could not prove: ``row`` is the digest of its manifest row, ``span`` that of its span."""

    key: str
    kind: str
    reason: str
    row: str
    size: int
    span: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class SpanProof:
    """One span that was read: its digest, its first key, objects and bytes in all, and what was not proven of it."""

    span: str
    first: str
    objects: int
    bytes: int
    read: int
    wrong: tuple[OpenFinding, ...] = ()


@dataclass
class FixityState:
    """What the lines of a log come to.

    proofs   when each span was read last, seconds since 1970, by the span's digest
    open     what could not be proven, by key, and was not proven since
    started  when the first run began; ``last``: the newest one that came to its end
    head     SHA-256 of the last line
    """

    proofs: dict[str, float] = field(default_factory=dict)
    open: dict[str, OpenFinding] = field(default_factory=dict)
    started: float | None = None
    last: float | None = None
    head: str = START
    lines: int = 0
    end: Mapping[str, Any] = field(default_factory=dict)
    _by_span: dict[str, set[str]] = field(default_factory=dict)

    def take_span(self, proof: SpanProof, at: float) -> None:
        """Note a span that was read: what is not wrong of it is right."""
        self.proofs[proof.span] = at
        before = {key: self._close(key) for key in self._by_span.pop(proof.span, set())}
        for found in proof.wrong:
            known = before.get(found.key) or self._close(found.key)
            since = known.since if known and (known.row, known.kind) == (found.row, found.kind) else at
            if known or len(self.open) < MOST_OPEN or found.kind == DAMAGED:
                self.open[found.key] = replace(found, span=proof.span, since=since)
                self._by_span.setdefault(proof.span, set()).add(found.key)

    def take_end(self, summary: Mapping[str, Any]) -> None:
        """Note how a run ended; one that was killed counts as none when the distance of runs is measured."""
        self.end = summary
        self.last = JsonMembers(summary, "the summary").real("began")

    def take_again(self, found: OpenFinding) -> None:
        """Note what an object came to that was wrong and was looked at again."""
        before = self.open.get(found.key)
        if before is None:
            return
        if found.kind == "right":
            self._close(found.key)
        else:
            self.open[found.key] = replace(found, span=before.span, since=before.since)

    def _close(self, key: str) -> OpenFinding | None:
        found = self.open.pop(key, None)
        if found is not None and found.span in self._by_span:
            self._by_span[found.span].discard(key)
        return found

    def unproven_bytes(self) -> dict[str, int]:
        """Return the bytes of each span that its last reading did not prove."""
        found: dict[str, int] = {}
        for item in self.open.values():
            found[item.span] = found.get(item.span, 0) + item.size
        return found


def log_path(manifest: Path) -> Path:
    """Return where the log of a manifest is: ``manifest.scrub.jsonl`` beside ``manifest.jsonl.zst``."""
    name = manifest.name
    for ending in (".jsonl.zst", ".zst", ".jsonl"):
        name = name.removesuffix(ending)
    return manifest.with_name(f"{name}.scrub.jsonl")


def format_moment(seconds: float) -> str:
    """Return a time as ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_moment(text: str) -> float:
    """Return the seconds since 1970 of such a time; ``ValueError`` for anything else."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text[:40]!r} has no time zone")
    return found.timestamp()


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the whole lines of a log with their numbers; a torn last one is left out."""
    with path.open("rb") as stream:
        for number, (line, _) in enumerate(lines_of(stream), 1):
            if line.endswith(b"\n"):
                yield number, line


def read_fixity_log(path: Path, header: ManifestHeader | None = None) -> FixityState:
    """Return what a log says; a missing one says nothing.

    Raises ``ConsistencyError`` where its chain is broken, or where it is of another bucket than ``header``.
    """
    state = FixityState()
    if not path.exists():
        return state
    for number, line in _lines(path):
        record = decode_record(line[:-1])
        try:
            if record is None:
                raise ValueError("the line is damaged")
            if record.get("previous") != state.head:
                raise ValueError("the line before it was changed, removed or put in")
            if number == 1:
                _check_head(record, path, header)
            else:
                _take(state, JsonMembers(record, "the line"))
        except ValueError as error:
            raise ConsistencyError(
                f"{path}, line {number}: the chain of the scrub log is broken: {error}; keep the log to find out who "
                "wrote to it, and move it away to begin a new one, in which nothing has been read yet"
            ) from error
        state.head, state.lines = hashlib.sha256(line).hexdigest(), number
    return state


def _check_head(record: Mapping[str, Any], path: Path, header: ManifestHeader | None) -> None:
    take = JsonMembers(record, "the first line")
    if take.text("kind") != "fixity":
        raise ValueError("it is not a scrub log")
    if take.number("format") != FORMAT:
        raise UsageError(f"{path} is a scrub log of format {record['format']}, this Lading knows {FORMAT}; update it")
    place = take.text("bucket"), take.text("prefix")
    if header is not None and place != (header.bucket, header.prefix):
        raise ConsistencyError(
            f"{path} is of s3://{place[0]}/{place[1]}, the manifest of s3://{header.bucket}/{header.prefix}; give "
            "another --log"
        )


def _take(state: FixityState, record: JsonMembers) -> None:
    """Take one line after the first; ``ValueError`` for what is none."""
    kind, at = record.text("kind"), parse_moment(record.text("at"))
    if kind == "run":
        state.started = at if state.started is None else state.started
    elif kind == "span":
        wrong = record.items("wrong", _decode_finding, ())
        counts = record.number("objects"), record.number("bytes"), record.number("read")
        state.take_span(SpanProof(record.text("span"), record.text("first"), *counts, wrong), at)
    elif kind == "again":
        state.take_again(record.items("found", _decode_finding)[0])
    elif kind == "end":
        state.take_end(record.object("summary"))


def _decode_finding(value: Any) -> OpenFinding:
    if not isinstance(value, list) or len(value) != 5:
        raise ValueError("a finding is not a list of five")
    key, kind, reason, row, size = value
    if not all(isinstance(text, str) for text in value[:4]) or type(size) is not int or not 0 <= size <= INT64:
        raise ValueError("a finding is of other types")
    return OpenFinding(key, kind, reason, row, size)


def _encode_finding(found: OpenFinding) -> list[str | int]:
    return [found.key, found.kind, found.reason, found.row, found.size]


class FixityLog:
    """Appends to a log that this process has locked; ``state`` is what the log says, these lines included."""

    def __init__(self, path: Path, state: FixityState, log: AppendLog) -> None:
        self.path, self.state = path, state
        self._log = log

    def begin(self, header: ManifestHeader) -> None:
        """Write the first line of a new log."""
        if self.state.lines == 0:
            place = {"bucket": header.bucket, "prefix": header.prefix, "endpoint": header.endpoint}
            self._put([{"kind": "fixity", "format": FORMAT, **place, "written_by": provenance()}])

    def begin_run(self, at: float, settings: Mapping[str, Any]) -> None:
        """Note that a run begins."""
        self.state.started = at if self.state.started is None else self.state.started
        self._put([{"kind": "run", "at": format_moment(at), **settings}])

    def add_spans(self, proofs: Iterable[SpanProof], at: float) -> None:
        """Note spans that were read; they are on disk when this returns."""
        records = []
        for proof in proofs:
            self.state.take_span(proof, at)
            records.append(
                {
                    "kind": "span",
                    "at": format_moment(at),
                    "span": proof.span,
                    "first": proof.first,
                    "objects": proof.objects,
                    "bytes": proof.bytes,
                    "read": proof.read,
                }
                | ({"wrong": [_encode_finding(found) for found in proof.wrong]} if proof.wrong else {})
            )
        self._put(records)

    def add_again(self, findings: Iterable[OpenFinding], at: float) -> None:
        """Note what objects came to that were wrong and were looked at again; ``right`` closes a finding."""
        records = []
        for found in findings:
            self.state.take_again(found)
            records.append({"kind": "again", "at": format_moment(at), "found": [_encode_finding(found)]})
        self._put(records)

    def end_run(self, at: float, summary: Mapping[str, Any]) -> None:
        """Note how a run ended."""
        self.state.take_end(summary)
        self._put([{"kind": "end", "at": format_moment(at), "summary": dict(summary)}])

    def _put(self, records: Iterable[Mapping[str, Any]]) -> None:
        chained = []
        for record in records:
            chained.append(dict(record) | {"previous": self.state.head})
            self.state.head = hashlib.sha256(encode_record(chained[-1])).hexdigest()
            self.state.lines += 1
        if chained:
            self._log.append(chained)
            self._log.sync()


@contextmanager
def open_fixity_log(path: Path, header: ManifestHeader) -> Iterator[FixityLog]:
    """Lock, read and open a log; raises ``LockHeldError`` while another run has it, ``ConsistencyError`` as reading."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(f"the scrub log {path} cannot be written ({error.strerror}); say where: --log FILE") from error
    try:
        try:
            free = try_lock(descriptor)
        except OSError:  # a file system without locks: there a second run costs work done twice, and its chain shows it
            free = True
        if not free:
            raise LockHeldError(f"another scrub works with {path}; wait for it")
        state = read_fixity_log(path, header)
        with AppendLog(path) as log:
            yield FixityLog(path, state, log)
    finally:
        os.close(descriptor)
