"""What one rank writes while it walks: digests, findings, and what checksum files claim.

Input: records of many threads. Output: three logs below ``parts/`` of the sign-off's directory.
Invariant: digests are on disk some seconds after they were made, so a killed run costs that much. The logs of a run
that ended are gone: those that lie there are of killed ones, and their digests count.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lading.checksums.kept_digests import KeptDigest, sorts_as_row
from lading.core.atomic import AppendLog
from lading.core.bounded import lines_of

PARTS = "parts"
DIGESTS, FINDINGS, CLAIMS = "digests", "findings", "claims"
SYNC_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class SignoffFinding:
    """One fault of one entry; ``detail`` is what there is to say beside its kind."""

    kind: str
    path: str
    detail: str = ""

    def as_json(self) -> dict[str, str]:
        """Return it as it stands in a file; lines sort by kind, then by path."""
        return {"kind": self.kind, "path": self.path, **({"detail": self.detail} if self.detail else {})}


class RunLog:
    """The logs of one rank; safe to use from many threads."""

    def __init__(self, directory: Path, writer: str) -> None:
        parts = directory / PARTS
        parts.mkdir(parents=True, exist_ok=True)
        self._logs = {kind: AppendLog(parts / f"{writer}.{kind}.jsonl") for kind in (DIGESTS, FINDINGS, CLAIMS)}
        self._lock = threading.Lock()
        self._synced = time.monotonic()

    def write(
        self,
        digests: Sequence[KeptDigest] = (),
        findings: Sequence[SignoffFinding] = (),
        claims: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Take some records."""
        with self._lock:
            if digests:
                self._logs[DIGESTS].append(kept.as_json() for kept in digests)
            if findings:
                self._logs[FINDINGS].append(finding.as_json() for finding in findings)
            if claims:
                self._logs[CLAIMS].append(claims)
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self._logs[DIGESTS].sync()
                self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close."""
        for log in self._logs.values():
            log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def part_files(directory: Path, kind: str, writers: Iterable[str] | None = None) -> list[Path]:
    """Return the logs of a kind, of all ranks or of these."""
    parts = directory / PARTS
    if writers is not None:
        return [parts / f"{writer}.{kind}.jsonl" for writer in writers]
    return sorted(parts.glob(f"*.{kind}.jsonl"))


def read_lines(paths: Iterable[Path]) -> Iterator[bytes]:
    """Yield the whole lines of logs, without their newlines; a torn last line is left out."""
    for path in paths:
        with path.open("rb") as stream:
            for line, _ in lines_of(stream):
                if line.endswith(b"\n"):
                    yield line[:-1]


def read_rows(path: Path) -> Iterator[bytes]:
    """Yield the lines of an artefact of digests that are of files."""
    return (line for line in read_lines([path]) if sorts_as_row(line))
