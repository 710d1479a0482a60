"""What the first rank makes of the logs of all: digests for later stages, findings, the report.

Input: the logs of the run's ranks. Output: ``digests.jsonl``, ``findings.jsonl`` and a ``SignoffResult``.
Invariant: both files are sorted and written whole, so one tree gives the same findings, whatever the ranks and threads.
"""

import heapq
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lading.checksums.digest import digest_files
from lading.checksums.kept_digests import NAME, KeptDigest, KeptDigests, decode_kept, encode_header
from lading.core.atomic import atomic_write, decode_record, encode_record
from lading.core.errors import LadingError
from lading.core.external_sort import LineSort
from lading.core.opening import Root
from lading.core.version import provenance
from lading.signoff.fault_kinds import UNREAD, FaultLevel, SignoffRules
from lading.signoff.run_log import (
    CLAIMS,
    DIGESTS,
    FINDINGS,
    PARTS,
    SignoffFinding,
    part_files,
    read_lines,
    read_rows,
)
from lading.signoff.sum_comparison import SumComparison, SumCounts
from lading.signoff.sum_writing import write_sums
from lading.signoff.task_reader import SignoffCounts

FOUND = "findings.jsonl"
MOST_NAMED = 100  # findings of a kind that the report names


@dataclass
class SignoffResult:
    """What a sign-off came to; ``named`` holds the first findings of each kind, ``written`` new checksum files."""

    counts: SignoffCounts
    sums: SumCounts = field(default_factory=SumCounts)
    kinds: Counter[str] = field(default_factory=Counter)
    named: dict[str, list[SignoffFinding]] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)

    def take(self, finding: SignoffFinding) -> None:
        """Count a finding."""
        self.kinds[finding.kind] += 1
        kept = self.named.setdefault(finding.kind, [])
        if len(kept) < MOST_NAMED:
            kept.append(finding)

    def at(self, level: FaultLevel, rules: SignoffRules) -> dict[str, int]:
        """Return how many findings there are of each kind of a level, but for what could not be read."""
        return {
            kind: count
            for kind, count in sorted(self.kinds.items())
            if rules.levels[kind] is level and kind not in UNREAD
        }

    @property
    def unread(self) -> int:
        """How many entries could not be read."""
        return sum(self.kinds[kind] for kind in UNREAD)


def newest(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield one line for each path of sorted lines: that of the latest read."""
    held: KeptDigest | None = None
    kept_line = b""
    for line in lines:
        found = decode_kept(line)
        if found is None:
            continue
        if held is not None and held.path != found.path:
            yield kept_line
            held = None
        if held is None or found.read_ns >= held.read_ns:
            held, kept_line = found, line
    if held is not None:
        yield kept_line


def sort_lines(scratch: Path, name: str, lines: Iterable[bytes]) -> LineSort:
    """Return lines in order."""
    ordered = LineSort(scratch, name)
    for line in lines:
        ordered.add(line)
    return ordered


def write_digests(path: Path, root: str, lines: Iterable[bytes]) -> None:
    """Write the artefact of digests: its header, then sorted lines."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    with atomic_write(path, "wb", sweep=True) as stream:
        stream.write(encode_header(root, moment, provenance()))
        stream.writelines(line + b"\n" for line in lines)


def gather_known(directory: Path, root: str, scratch: Path) -> Path | None:
    """Merge what killed runs left with the digests of the last whole one; returns the artefact, None without any."""
    whole = directory / NAME
    left = part_files(directory, DIGESTS)
    if left:
        older = read_rows(whole) if _is_of(whole, root) else iter(())
        merged = heapq.merge(older, sort_lines(scratch, "left", read_lines(left)))
        write_digests(whole, root, newest(merged))
        shutil.rmtree(directory / PARTS)
    return whole if _is_of(whole, root) else None


def _is_of(path: Path, root: str) -> bool:
    """Tell whether an artefact can be used for a root; one that cannot is written anew."""
    try:
        found = KeptDigests(path)
    except LadingError:
        return False
    found.close()
    return os.path.realpath(found.root) == os.path.realpath(root)


class Conclusion:
    """Concludes one run, whose ranks had these ``writers``."""

    def __init__(self, directory: Path, root: str, writers: Sequence[str], rules: SignoffRules, scratch: Path) -> None:
        self._directory, self._root, self._writers, self._rules = directory, root, writers, rules
        self._scratch = scratch
        self._findings = LineSort(scratch, "findings")

    def run(self, counts: SignoffCounts, *, writes_sums: bool) -> SignoffResult:
        """Compare, write, and return what was found."""
        result = SignoffResult(counts)
        for line in read_lines(part_files(self._directory, FINDINGS, self._writers)):
            self._findings.add(line)
        digests, claims = (
            sort_lines(self._scratch, kind, read_lines(part_files(self._directory, kind, self._writers)))
            for kind in (DIGESTS, CLAIMS)
        )
        comparison = SumComparison(self._root, self._scratch, self._report)
        path = self._directory / NAME
        write_digests(path, self._root, comparison.lines(digests, claims))
        kept = KeptDigests(path)
        try:
            comparison.look_at_absent(kept)
        finally:
            kept.close()
        result.sums = comparison.counts
        if writes_sums:
            self._write_sums(comparison, result)
        else:
            self._report_unsummed(comparison.unsummed)
        self._write_findings(result)
        shutil.rmtree(self._directory / PARTS)
        return result

    def _report(self, finding: SignoffFinding) -> None:
        if self._rules.looks_for(finding.kind):
            self._findings.add(encode_record(finding.as_json())[:-1])

    def _report_unsummed(self, unsummed: Iterable[bytes]) -> None:
        for line in unsummed:
            directory, name, _ = json.loads(line)
            self._report(SignoffFinding("file-without-sum", f"{directory}/{name}" if directory else name))

    def _write_sums(self, comparison: SumComparison, result: SignoffResult) -> None:
        """Write the missing sums, and add the digests of the new files."""
        with Root(self._root) as root:
            for path, files in write_sums(root, comparison.unsummed):
                result.written[path] = files
            paths = sorted(result.written)
            lines = [line for path in paths for line in self._digest(path, root)]
        if lines:
            whole = self._directory / NAME
            write_digests(whole, self._root, heapq.merge(read_rows(whole), sorted(lines)))

    @staticmethod
    def _digest(path: str, root: Root) -> Iterator[bytes]:
        began = time.time_ns()
        (found,) = digest_files([(path, 0)], root=root)
        if not isinstance(found, OSError) and found.steady:
            yield encode_record(KeptDigest.of(path, found, began).as_json())[:-1]

    def _write_findings(self, result: SignoffResult) -> None:
        with atomic_write(self._directory / FOUND, "wb", sweep=True) as stream:
            for line in self._findings:
                record = decode_record(line)
                if record is not None:
                    result.take(SignoffFinding(record["kind"], record["path"], record.get("detail", "")))
                stream.write(line + b"\n")
