"""What the artefacts of a release say, gathered for tables and pages.

Input: the directory with find.meta.json, batch.json, journal/, runs/ and
manifest.jsonl.zst, each of which may be missing. Output: ``Facts``.
Invariant: reads only; the journals are streamed, so memory follows the number
of failures and minutes, not of objects.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lading.core.atomic import decode_record
from lading.core.bounded import lines_of, read_object
from lading.core.errors import LadingError
from lading.journal.records import DONE, FAILED, is_sound
from lading.journal.run_record import check_run
from lading.plan.batch_plan import Plan, read_plan
from lading.plan.ownership import coverage_of
from lading.tree.coverage import UNKNOWN, Coverage, encode_coverage
from lading.tree.size_tree import TreeMeta, read_meta
from lading.verification.fixity_log import log_path, read_fixity_log
from lading.verification.manifest import ManifestEnd, ManifestHeader, read_manifest

MANIFEST = "manifest.jsonl.zst"
# A `done` line's parts that the timeline needs, without parsing 10⁷ lines of JSON.
_DONE = re.compile(rb'"size":(\d{1,19}),.*?"at":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)')
_KIND = b'{"kind":"%s"'


@dataclass(frozen=True)
class FailedObject:
    """An object that was given up and has not been proven since."""

    path: str
    key: str
    reason: str
    kind: str
    attempts: int


@dataclass(frozen=True)
class Moment:
    """What was proven of objects stored in one second (UTC, ``YYYY-MM-DDTHH:MM:SS``)."""

    at: str
    objects: int
    bytes: int


@dataclass(frozen=True)
class Facts:
    """Everything that is known; None or empty where its artefact is missing.

    ``coverage`` is what the plan leaves behind; ``runs`` are the records under runs/, oldest first; ``faults`` are
    sentences on artefacts that exist but cannot be read.
    """

    tree: TreeMeta | None = None
    plan: Plan | None = None
    coverage: Coverage = UNKNOWN
    runs: tuple[dict[str, Any], ...] = ()
    failures: tuple[FailedObject, ...] = ()
    timeline: tuple[Moment, ...] = ()
    manifest: tuple[ManifestHeader, ManifestEnd] | None = None
    faults: tuple[str, ...] = field(default=())
    scrub: Mapping[str, Any] | None = None  # the summary of the last one

    def last(self, stage: str) -> dict[str, Any] | None:
        """Return the newest record of a stage."""
        return next((run for run in reversed(self.runs) if run.get("stage") == stage), None)


def gather(directory: Path) -> Facts:
    """Return the facts of a directory; raises nothing for what is missing or damaged."""
    faults: list[str] = []
    runs = []
    for path in sorted((directory / "runs").glob("*.json")):
        try:
            runs.append(check_run(read_object(path)))
        except ValueError as error:
            faults.append(f"{path} is not the record of a run ({error})")
    manifest = _try(lambda: read_manifest(directory / MANIFEST), directory / MANIFEST, faults)
    log = log_path(directory / MANIFEST)
    state = _try(lambda: read_fixity_log(log, manifest and manifest.header), log, faults)
    failures, timeline = read_journals(directory / "journal")
    plan = _try(lambda: read_plan(directory / "batch.json"), directory / "batch.json", faults)
    return Facts(
        tree=_try(lambda: read_meta(directory / "find.meta.json"), directory / "find.meta.json", faults),
        plan=plan,
        coverage=(plan and _try(lambda: coverage_of(plan, directory), directory / "batch.json", faults)) or UNKNOWN,
        runs=tuple(sorted(runs, key=lambda run: str(run.get("started", "")))),
        # What failed before a run in which every batch was completed is of a plan that was cut anew since.
        failures=() if _is_complete(runs) else failures,
        timeline=timeline,
        manifest=(manifest.header, manifest.end) if manifest else None,
        scrub=state.end if state and state.end else None,
        faults=tuple(faults),
    )


def _is_complete(runs: list[dict[str, Any]]) -> bool:
    """Tell whether the newest upload left nothing of its plan open."""
    uploads = [run for run in runs if run.get("stage") == "upload"]
    if not uploads:
        return False
    batches = max(uploads, key=lambda run: str(run.get("started", ""))).get("batches", {})
    return bool(batches) and batches.get("completed") == batches.get("listed")


def _try(read: Any, path: Path, faults: list[str]) -> Any:
    if not path.exists():
        return None
    try:
        return read()
    except LadingError as error:
        faults.append(str(error))
        return None


def read_journals(directory: Path) -> tuple[tuple[FailedObject, ...], tuple[Moment, ...]]:
    """Return the failures that stand and what was stored by the second."""
    failed: dict[str, FailedObject] = {}
    objects: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for line in _lines(directory):
        if line.startswith(_KIND % DONE.encode()):
            match = _DONE.search(line)
            if match:
                second = match[2].decode("ascii")
                objects[second] += 1
                size[second] += int(match[1])
        elif line.startswith(_KIND % FAILED.encode()):
            record = _decode(line, FAILED)
            if record:
                failed[record["key"]] = FailedObject(
                    record["path"], record["key"], record["message"], record["class"], record["attempts"]
                )
    if failed:
        # Proven after all, in whichever journal: only now are the few wanted keys known.
        for line in _lines(directory):
            if line.startswith(_KIND % DONE.encode()):
                record = _decode(line, DONE)
                if record:
                    failed.pop(record["key"], None)
    timeline = tuple(Moment(at, objects[at], size[at]) for at in sorted(objects))
    return tuple(failed[key] for key in sorted(failed)), timeline


def _decode(line: bytes, kind: str) -> Any:
    """Return a sound record of a kind, or None; what a line begins with is not what it is when a member comes twice."""
    record = decode_record(line)
    return record if record and record.get("kind") == kind and is_sound(record) else None


def _lines(directory: Path) -> Iterator[bytes]:
    for path in sorted(directory.glob("*.jsonl")):
        with path.open("rb") as stream:
            for line, _ in lines_of(stream):
                if line.endswith(b"\n"):
                    yield line[:-1]


def summarise(facts: Facts) -> dict[str, Any]:
    """Return the facts as one JSON object: what ``make status json=1`` prints."""
    tree, plan = facts.tree, facts.plan
    upload = facts.last("upload")
    return {
        "format": 1,
        "kind": "status",
        "crawl": None
        if tree is None
        else {
            "root": tree.root,
            "entries": tree.entries,
            "files": tree.files,
            "bytes": tree.bytes,
            "ended": tree.ended,
            "unreadable": len(tree.unreadable),
        },
        "plan": None
        if plan is None
        else {
            "batches": len(plan.batches),
            "files": sum(batch.files for batch in plan.batches),
            "bytes": sum(batch.size for batch in plan.batches),
            "oversize": len(plan.oversize),
            "crawl": encode_coverage(facts.coverage),
        },
        "upload": upload,
        "failures": [asdict(failure) for failure in facts.failures],
        "verify": facts.last("verify"),
        "manifest": None if facts.manifest is None else asdict(facts.manifest[1]),
        "scrub": facts.scrub,
        "faults": list(facts.faults),
    }
