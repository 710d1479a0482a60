"""What a verification found, for people, for the run's record, and as an exit code.

Input: the findings of an audit, the end record of the manifest it wrote.
Output: lines on the terminal, ``runs/*-verify-*.json``.
Invariant: a difference is never less than exit 4, and what was not compared never less than exit 3.
"""

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write
from lading.core.command_line import printable
from lading.core.errors import ConsistencyError, PartialFailure
from lading.core.progress import counted, format_bytes, format_count, format_seconds
from lading.core.version import provenance
from lading.journal.stage_result import note_counts
from lading.plan.objects import PlannedObjects
from lading.tree.coverage import ADVICE, describe_gap, describe_rest, encode_coverage
from lading.verification.compare import CompareLevel
from lading.verification.findings import SHOWN, Findings
from lading.verification.manifest import ManifestEnd
from lading.verification.read_sample import Sample
from lading.verification.sample import FileSample

CONTRADICTED = (
    "the file here or its record is damaged, so the object is not replaced; compare each file with its object "
    "(make restore prefix=… to=…), then put the right one in place, or touch the file to send it"
)


@dataclass(frozen=True)
class VerifyReport:
    """One verification that came to its end; ``writer`` is None where nothing may be written beside the plan."""

    inventory: PlannedObjects
    level: CompareLevel
    findings: Findings
    sample: Sample
    files: FileSample
    end: ManifestEnd
    output: Path
    started: float
    seconds: float
    writer: str | None

    def finish(self, *, as_json: bool) -> int:
        """Print the findings and write the record; returns the exit code, or raises as ``conclude``."""
        self.say()
        record = self.record()
        findings, end = self.findings, self.end
        note_counts(
            objects=self.inventory.files,
            size=sum(batch.size for batch in self.inventory.batches),
            verified=end.objects,
            missing=findings.missing,
            different=findings.differing + findings.contradicted,
            unreadable=findings.unreadable,
        )
        self.write(record)
        if as_json:
            print(json.dumps(record))
        sys.stdout.flush()
        return self.conclude()

    def say(self) -> None:
        """Print what was found."""
        inventory, level, findings, sample, end = self.inventory, self.level, self.findings, self.sample, self.end
        files, output = self.files, self.output
        print(
            f"verify  {'complete' if end.complete else 'incomplete'}: "
            f"{format_count(end.objects)} of {counted(inventory.files, 'object')} verified, "
            f"{format_bytes(end.bytes)}, in {format_seconds(self.seconds)}; "
            f"level {'checksum' if level is CompareLevel.CRC64 else level}, "
            f"read again {format_count(findings.reread)}, downloaded {format_count(sample.downloaded)}; "
            f"{os.path.relpath(output)}"
        )
        if findings.extra:
            names = _some(findings, "extra")
            what = counted(findings.extra, "object in the bucket is", "objects in the bucket are")
            print(f"note: {what} not part of this plan: {names}")
        if rest := describe_rest(inventory.coverage, printable):
            print(f"note: in no batch, so not in the bucket: {rest}")
        if findings.weak:
            what = counted(
                findings.weak,
                "object was already in the bucket and was compared",
                "objects were already in the bucket and were compared",
            )
            print(f"note: {what} by less than SHA-256; verify_flags=--adopt=download reads only these")
        if findings.unhashed:
            what = counted(
                findings.unhashed,
                "object has no SHA-256, since digests= left it out when it was sent",
                "objects have no SHA-256, since digests= left it out when they were sent",
            )
            print(f"note: {what}; verify_flags=--full reads the objects and records it, --source=all reads the files")
        if end.source:
            print(
                f"source  read {format_count(end.source.read)} of "
                f"{counted(end.source.asked, 'file that was', 'files that were')} "
                f"requested; {format_count(end.source.gone)} of them are gone"
            )
        if files.too_large:
            what = counted(
                files.too_large,
                "file is larger than the requested number of bytes, and was",
                "files are larger than the requested number of bytes, and were",
            )
            print(f"note: {what} not read")
        if findings.archived:
            what = counted(
                findings.archived,
                "object is archived, so its bytes were not read; listing and record agree on it",
                "objects are archived, so their bytes were not read; listing and record agree on them",
            )
            print(f"note: {what}")
        if findings.withdrawn:
            what = counted(findings.withdrawn, "object was withdrawn, and is", "objects were withdrawn, and are")
            print(f"note: {what} not in the bucket")
        if findings.gone_here:
            what = counted(findings.gone_here, "verified file no longer exists", "verified files no longer exist")
            print(f"note: {what} here")

    def record(self) -> dict[str, Any]:
        """Return the record of the run."""
        inventory, level, findings, sample, end = self.inventory, self.level, self.findings, self.sample, self.end
        started, writer = self.started, self.writer
        record: dict[str, Any] = {
            "format": 1,
            "kind": "run",
            "stage": "verify",
            "writer": writer,
            "written_by": provenance(),
            "bucket": str(inventory.place),
            "root": inventory.release,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
            "seconds": round(self.seconds, 3),
            "level": str(level),
            "complete": end.complete,
            "crawl": encode_coverage(inventory.coverage),
            "objects": {
                "listed": inventory.files,
                "proven": end.objects,
                "missing": findings.missing,
                "differing": findings.differing,
                "sourceless": findings.sourceless,
                "contradicted": findings.contradicted,
                "unreadable": findings.unreadable,
                "unjudged": findings.unjudged,
                "unsent": findings.unsent,
                "vanished": findings.vanished,
                "extra": findings.extra,
                "archived": findings.archived,
                "withdrawn": findings.withdrawn,
                "returned": findings.returned,
                "read": findings.reread,
                "downloaded": sample.downloaded,
            },
            "bytes": {"proven": end.bytes},
        }
        if end.source:
            record["source"] = asdict(end.source)
        return record

    def write(self, record: dict[str, Any]) -> None:
        """Write the record, or say why not."""
        writer, inventory, started = self.writer, self.inventory, self.started
        if writer is None:
            print(f"note: {inventory.directory} is not writable for you, so nothing was recorded there")
        else:
            runs = inventory.directory / "runs"
            runs.mkdir(exist_ok=True)
            name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(started))}-verify-{writer}.json"
            with atomic_write(runs / name) as stream:
                json.dump(record, stream, indent=1)
                stream.write("\n")

    def _advice(self) -> str:
        """Return what to do about objects that are missing or different: only what is here can be sent again."""
        what = "the bucket does not hold what was sent"
        gone = self.findings.sourceless
        if not gone:
            return f"{what}; run: make upload (it sends these files again)"
        restore = "restore them from another copy"
        if gone == self.findings.missing + self.findings.differing:
            return f"{what}, and the local files are gone; {restore}, then run: make upload"
        return (
            f"{what}; run: make upload (it sends these files again); the local files of {format_count(gone)} of these "
            f"objects are gone, so {restore} first"
        )

    def _describe_unsent(self) -> list[str]:
        """Return what was never sent, and what to do: a file that is gone can't be."""
        findings = self.findings
        lines, there = [], findings.unsent - findings.vanished
        if findings.vanished:
            what = counted(findings.vanished, "planned file has vanished", "planned files have vanished")
            again = "rm find.json; make find.json batch.json"
            lines.append(
                f"{what} from {printable(self.inventory.release)} before being sent: {_some(findings, 'vanished')}; "
                f"restore what vanished and run: make upload; or, if it is to be gone, run: {again}"
            )
        if there:
            lines.append(f"{counted(there, 'object was', 'objects were')} never sent; run: make upload")
        return lines

    def conclude(self) -> int:
        """Return 0; raises for differences, and for what was not sent or not compared."""
        findings, inventory = self.findings, self.inventory
        unread = f"unreadable: {format_count(findings.unreadable)}: {_some(findings, 'unreadable')}"
        if findings.unjudged:
            unread += (
                f"\nof these, not decided: {format_count(findings.unjudged)}; the bucket's listing leaves out "
                "objects that are there, so no more were requested one by one; have the server's index repaired"
            )
        contradicted = [f"{CONTRADICTED}: {_some(findings, 'contradicted')}"] if findings.contradicted else []
        absent = (
            [
                f"--source was to read {counted(findings.source_gone, 'file that is', 'files that are')} gone: "
                f"{_some(findings, 'source_gone')}; mount or restore the source, or verify without --source"
            ]
            if findings.source_gone
            else []
        )
        gap = describe_gap(inventory.coverage, printable)
        incomplete = absent + ([f"the manifest is not complete: {gap}; {ADVICE}"] if gap else [])
        if findings.missing or findings.differing:
            lines = [self._advice()]
            for kind, count in (("missing", findings.missing), ("differing", findings.differing)):
                if count:
                    lines.append(f"{kind}: {format_count(count)}: {_some(findings, kind)}")
            lines += contradicted
            lines += [unread] if findings.unreadable else []
            lines += incomplete
            raise ConsistencyError("\n".join(lines))
        if findings.returned:
            names = _some(findings, "returned")
            lines = [f"withdrawn, and in the bucket again: {format_count(findings.returned)}: {names}"]
            advice = "find out who put them there; if nobody should have, run lading withdraw with these names again"
            raise ConsistencyError("\n".join([advice, *lines, *contradicted, *incomplete]))
        if contradicted:
            raise ConsistencyError("\n".join(contradicted + ([unread] if findings.unreadable else []) + incomplete))
        if findings.unreadable:
            advice = "some objects could not be compared; fix the problems listed below, then run: make verify"
            lines = [advice, unread, *incomplete]
            raise PartialFailure("\n".join(lines))
        if findings.unfinished:
            names = _some(findings, "unfinished")
            incomplete.append(f"a withdrawal was not finished: {names}; run the same lading withdraw again")
        unsent = self._describe_unsent()
        if unsent or incomplete:
            raise PartialFailure("\n".join(unsent + incomplete))
        return 0


def _some(findings: Findings, kind: str) -> str:
    names = findings.names.get(kind, [])
    more = " …" if getattr(findings, kind) > SHOWN else ""
    return ", ".join(map(printable, names)) + more
