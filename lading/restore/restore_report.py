"""What a restore did and left, for people, as JSON, and as an exit code.

Input: the counts of files, of entries that are no objects, of attributes.
Output: lines on the terminal or one JSON line.
Invariant: whatever was not made again or not put back is counted, and the
first are named; a file, link or directory that failed is exit 3.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lading.core.command_line import printable
from lading.core.errors import PartialFailure
from lading.core.progress import counted, format_bytes, format_count, format_seconds
from lading.restore.links_and_directories import EntryCounters
from lading.restore.thaw import ArchivedObjects
from lading.tree.not_regular import NamedCount, NotRegular, encode_not_regular

SHOWN = 20


@dataclass
class RestoreCounters:
    """What was done; ``faults`` holds (path, reason)."""

    restored: int = 0
    bytes: int = 0
    present: int = 0
    hard_links: int = 0
    without_metadata: int = 0
    archived: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class NamedFiles:
    """Files of which something is to be said: all counted, the first named."""

    count: int = 0
    names: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Count one."""
        self.count += 1
        if len(self.names) < SHOWN:
            self.names.append(name)

    def __str__(self) -> str:
        return ", ".join(map(printable, self.names)) + (" …" if self.count > len(self.names) else "")


@dataclass(frozen=True)
class RestoreReport:
    """One restore that came to its end.

    unreadable   what the crawl behind the manifest could not read, when all of it was restored
    lacking      what of the metadata could not be put back; None where it was not asked for
    archived     what could not be read before it is thawed
    """

    files: RestoreCounters
    entries: EntryCounters
    undated: NamedFiles
    unproven: NamedFiles
    unreadable: NotRegular
    lacking: Mapping[str, NamedCount] | None
    seconds: float
    archived: ArchivedObjects

    def finish(self, *, as_json: bool) -> int:
        """Print all; returns 0, raises ``PartialFailure`` where something failed."""
        print(json.dumps(self.record()) if as_json else "\n".join([self.summary(), *self.archived.describe()]))
        for note in self.notes():
            print(f"note: {note}", file=sys.stderr)
        sys.stdout.flush()
        return self.conclude()

    @property
    def faults(self) -> Sequence[tuple[str, str]]:
        """What failed: (path, reason)."""
        return [*self.files.faults, *self.entries.faults]

    def record(self) -> dict[str, Any]:
        """Return the JSON form."""
        files, entries = self.files, self.entries
        record: dict[str, Any] = {
            "restored": files.restored,
            "bytes": files.bytes,
            "present": files.present,
            "unproven": self.unproven.count,
            "failed": [{"path": path, "reason": reason} for path, reason in self.faults],
            "archived": {name: asdict(found) for name, found in self.archived.sums.items()},
            "seconds": round(self.seconds, 3),
            "hard_links": files.hard_links,
            "links": entries.links,
            "directories": entries.directories,
            "not_regular": encode_not_regular(entries.seen),
            "left": {kind: {"count": found.count, "names": found.names} for kind, found in entries.left.kinds.items()},
        }
        if self.lacking is not None:
            record["attributes_lacking"] = {
                what: {"count": found.count, "names": found.names} for what, found in self.lacking.items()
            }
            record["without_metadata"] = files.without_metadata
        return record

    def summary(self) -> str:
        """Return the line that says what was done."""
        files, entries = self.files, self.entries
        made = [
            f"{format_count(count)} {what}"
            for count, what in (
                (files.hard_links, "of these as hard links"),
                (entries.links, "links"),
                (entries.directories, "empty directories and others"),
            )
            if count
        ]
        state = "incomplete" if self.faults or files.archived else "complete"
        verified = "" if self.unproven.count else " and verified"
        return (
            f"restore  {state}: {counted(files.restored, 'file')}, {format_bytes(files.bytes)} restored{verified} "
            f"in {format_seconds(self.seconds)}; {format_count(files.present)} were already there; "
            f"{len(self.faults)} failed" + (f"; {', '.join(made)}" if made else "")
        )

    def notes(self) -> list[str]:
        """Return a sentence for each thing that is not as it was."""
        found = []
        if self.undated.count:
            found.append(
                f"{counted(self.undated.count, 'file has', 'files have')} a modification time that this "
                f"file system or the "
                f"manifest cannot hold; they got the nearest one: {self.undated}"
            )
        found += [f"not regular files: {clause}" for clause in self.entries.seen.describe(printable)]
        for clause in self.entries.left.describe(printable):
            advice = "; --outside-links makes those" if "lead" in clause.partition(":")[0] else ""
            found.append(f"not made again: {clause}{advice}")
        found += [f"never in the bucket: {clause}" for clause in self.unreadable.describe(printable)]
        for what, known in (self.lacking or {}).items():
            names = ", ".join(map(printable, known.names)) + (" …" if known.count > len(known.names) else "")
            found.append(f"not put back: {printable(what)}: {format_count(known.count)}: {names}")
        if self.lacking is not None and self.files.without_metadata:
            found.append(
                f"{counted(self.files.without_metadata, 'file has', 'files have')} no metadata in the manifest; "
                "a crawl with --metadata records it"
            )
        return found

    def conclude(self) -> int:
        """Return 0; raises ``PartialFailure`` for what failed and what is not proven."""
        unproven = (
            [
                f"not verified: {counted(self.unproven.count, 'file has', 'files have')} the bytes of the "
                f"bucket's objects, but "
                "the manifest has no digest of them; make verify verify_flags=--full records digests: "
                f"{self.unproven}"
            ]
            if self.unproven.count
            else []
        )
        if count := self.files.archived:
            unproven.append(
                f"not restored: {counted(count, 'object is', 'objects are')} archived; {self.archived.advice()}"
            )
        faults = self.faults
        if faults:
            lines = [f"{printable(path)}: {reason}" for path, reason in faults[:SHOWN]]
            if len(faults) > SHOWN:
                lines.append(f"… and {len(faults) - SHOWN} more")
            advice = "fix the problems below, then run the same command again; not restored:"
            raise PartialFailure("\n".join([advice, *lines, *unproven]))
        if unproven:
            raise PartialFailure("\n".join(unproven))
        return 0
