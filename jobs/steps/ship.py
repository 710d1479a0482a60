"""The upload: crawl, cut, ship and prove, by the scripts of ``make upload``, under the job's prefix.

Input: the staging folder, and each modality that is sent from its source.
Output: objects in the bucket; per shipment a size tree, a plan, a journal
and a manifest in the job's state.
Invariant: the task ends only when every manifest is complete: each file's
object was read back from the bucket's own listing. A second start continues
where the journals stand.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jobs.steps.transform import read_decisions
from jobs.work import REPOSITORY, Work
from lading.errors import Disagreement, LadingError
from lading.formats.manifest import Manifest, read_manifest
from lading.progress import format_bytes

STAGED = "staged"
MANIFEST = "manifest.jsonl.zst"


@dataclass(frozen=True)
class Shipment:
    """A directory on its way to ``prefix`` (without slashes at its ends); ``name`` is unique in the job."""

    name: str
    root: Path
    prefix: str


def shipments(work: Work) -> Iterator[Shipment]:
    """Yield what is to be sent: modalities from their source first, the staging folder with the metadata last."""
    decisions = read_decisions(work)
    for folder, decision in decisions.items():
        if decision["action"] == "direct":
            yield Shipment(folder, Path(decision["source"]), f"{work.job.prefix}/{folder}")
    yield Shipment(STAGED, work.staging, work.job.prefix)


def upload(work: Work) -> dict[str, object]:
    """Send and prove every shipment."""
    objects = size = 0
    names = []
    for shipment in shipments(work):
        manifest = _ship(work, shipment)
        objects += manifest.end.objects
        size += manifest.end.bytes
        names.append(shipment.name)
    return {"objects": objects, "bytes": size, "shipments": names, "destination": work.job.destination}


def _ship(work: Work, shipment: Shipment) -> Manifest:
    directory = work.place.shipment(shipment.name)
    directory.mkdir(parents=True, exist_ok=True)
    work.say(f"sending {shipment.root} to s3://{work.job.s3_bucket}/{shipment.prefix}/")
    target = ["--bucket", f"s3://{work.job.s3_bucket}/{shipment.prefix}", "--batch", "batch.json"]
    if work.settings.endpoint:
        target += ["--endpoint-url", work.settings.endpoint]
    root = str(shipment.root)
    script = REPOSITORY.joinpath
    work.run_python(script("find.py"), root, "--max-workers", 4, "-o", "find.json", directory=directory)
    work.run_python(script("batch.py"), root, "--file-tree", "find.json", "-o", "batch.json", directory=directory)
    work.run_python(script("upload.py"), root, *target, "--max-workers", work.settings.workers, directory=directory)
    work.run_python("-m", "lading.transfer.verify", root, *target, directory=directory)
    manifest = read_manifest(directory / MANIFEST)
    if not manifest.end.complete:
        raise Disagreement(f"{directory / MANIFEST} does not prove every file of {root}; run again")
    return manifest


def preview(work: Work) -> dict[str, object]:
    """Say what would be sent where."""
    total = 0
    lines = []
    for shipment in shipments(work):
        files = [path for path in shipment.root.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        total += len(files)
        lines.append(
            f"would send {len(files)} files, {format_bytes(size)}, from {shipment.root} "
            f"to s3://{work.job.s3_bucket}/{shipment.prefix}/"
        )
    if not total:
        raise LadingError(f"{work.job.prefix} has no file to send")
    for line in lines:
        work.say(line)
    return {"would_send": total}
