"""Costs of the stages by the file, from runs over trees of two sizes: ``measure()``.

Input: none (trees, journals and a bucket on paper, and one small tree on the
disk). Output: ``Costs``.
Invariant: processor seconds and peak memory of the real commands, each in a
process of its own; the difference between the sizes is what a file costs, so
what a command costs whatever it does falls out.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.batch.__main__ import measured
from benchmarks.scale.further_ranks import measure_ranks
from benchmarks.scale.paper_bucket import ETAG, PER_DIRECTORY, SIZE, PaperBucket, path_of
from benchmarks.upload.noop import MOMENT, write_journals
from lading.coordination.lease import Lease
from lading.journal.journal_index import JournalIndex
from lading.journal.journal_writer import JournalWriter
from lading.journal.records import VerificationRecord, encode_header, encode_verification
from lading.objectstore.keys import KeyPrefix
from lading.plan.objects import PlannedObjects
from lading.tree.size_tree import TreeMeta, meta_path, write_meta

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SIZES = (200_000, 800_000)
ON_DISK = (10_000, 40_000)
CLAIMS = 1000
JOURNALS = 500


@dataclass(frozen=True)
class Cost:
    """Of one stage: processor seconds and bytes of memory of one process, by the file; bytes on disk by the file."""

    seconds: float
    memory: float
    disk: float


@dataclass(frozen=True)
class Costs:
    """Of all stages.

    ``start``: of an upload before it sends; ``further``: of the same in another rank of the host, its own memory.
    ``claim``: seconds of a claim with its release; ``journal``: of looking at one more journal.
    """

    crawl: Cost
    plan: Cost
    start: Cost
    further: Cost
    verify: Cost
    record: float
    claim: float
    journal: float


def measure(sizes: tuple[int, int] = SIZES) -> Costs:
    """Run the stages over trees of two sizes, and return what they cost; takes minutes."""
    os.environ.update(AWS_ACCESS_KEY_ID="none", AWS_SECRET_ACCESS_KEY="none", PYTHONPATH=str(REPOSITORY))
    runs = []
    for count in sizes:
        with tempfile.TemporaryDirectory(prefix="scale-") as name:
            runs.append(_run(Path(name), count))
    few, many = runs
    between = sizes[1] - sizes[0]
    plan, start, further, verify = (
        Cost(*((after - before) / between for before, after in zip(few[stage], many[stage])))
        for stage in ("plan", "start", "further", "verify")
    )
    return Costs(_crawl(), plan, start, further, verify, many["record"][0], _claim(), _journal())


def _run(directory: Path, count: int) -> dict[str, tuple[float, ...]]:
    """Return (seconds, bytes of memory, bytes on disk) of each stage over a tree of ``count`` files."""
    release = directory / "data"
    release.mkdir()
    _write_tree(directory / "find.json", release, count)
    plan, journal = directory / "batch.json", directory / "journal"
    cut = [sys.executable, str(REPOSITORY / "batch.py"), str(release), "--file-tree", str(directory / "find.json")]
    cut += ["--min-batch-size", "10M", "--max-batch-size", "1G", "-o", str(plan)]
    seconds, peak = measured(cut)
    found = {"plan": (seconds, peak * 2**20, float(plan.stat().st_size))}
    with PaperBucket(count, "data/") as bucket:
        inventory = PlannedObjects(str(directory), KeyPrefix("bucket"), plan, "{}")
        journal.mkdir()
        write_journals(inventory, bucket.endpoint)
        kept = float(sum(path.stat().st_size for path in journal.iterdir()))
        found["record"] = (kept / count,)
        place = ["--bucket", "s3://bucket", "--endpoint-url", bucket.endpoint, "--batch", str(plan)]
        send = [sys.executable, str(REPOSITORY / "upload.py"), str(directory), *place]
        seconds, peak = measured(send)
        found["start"] = (seconds, peak * 2**20, kept)
        others = measure_ranks(send)[1:]
        own = sum(cost.own for cost in others) / len(others)
        found["further"] = (sum(cost.seconds for cost in others) / len(others), float(own), 0.0)
        manifest = directory / "manifest.jsonl.zst"
        command = [sys.executable, "-m", "lading", "verify", str(directory), *place]
        seconds, peak = measured(command)
        assert bucket.requests >= count // 1000, "the bucket was not listed"
        found["verify"] = (seconds, peak * 2**20, float(manifest.stat().st_size))
    return found


def _write_tree(path: Path, root: Path, count: int) -> None:
    directories = []
    for first in range(0, count, PER_DIRECTORY):
        numbers = range(first, min(first + PER_DIRECTORY, count))
        files = [[path_of(number).partition("/")[2], 1, SIZE] for number in numbers]
        directories.append([path_of(first).partition("/")[0], 0, SIZE * len(files), *files])
    data = (json.dumps([root.name, 0, SIZE * count, *directories], separators=(",", ":")) + "\n").encode()
    path.write_bytes(data)
    entries, digest = 1 + len(directories) + count, hashlib.sha256(data).hexdigest()
    counts = (entries, count, 1 + len(directories), 0, 0, SIZE * count)
    write_meta(meta_path(path), TreeMeta(str(root), {}, digest, *counts, MOMENT, MOMENT))


def _crawl() -> Cost:
    """Crawl trees of empty files on the disk."""
    found = []
    for count in ON_DISK:
        with tempfile.TemporaryDirectory(prefix="scale-") as name:
            for number in range(count):
                path = Path(name, "tree", path_of(number))
                if not number % PER_DIRECTORY:
                    path.parent.mkdir(parents=True)
                path.touch()
            output = Path(name, "find.json")
            command = [sys.executable, str(REPOSITORY / "find.py"), f"{name}/tree", "-o", str(output)]
            seconds, peak = measured(command)
            found.append((seconds, peak * 2**20, float(output.stat().st_size)))
            shutil.rmtree(f"{name}/tree")
    return Cost(*((after - before) / (ON_DISK[1] - ON_DISK[0]) for before, after in zip(*found)))


def _claim() -> float:
    with tempfile.TemporaryDirectory(prefix="scale-") as name, Lease(Path(name), "one") as lease:
        started = time.process_time()
        for number in range(CLAIMS):
            assert lease.claim(str(number))
            lease.release(str(number))
        return (time.process_time() - started) / CLAIMS


def _journal() -> float:
    """Return the seconds that one more journal, which has nothing new, adds to a look at all of them."""
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        record = VerificationRecord("k", SIZE, 1, ETAG, MOMENT, ETAG, ETAG * 2, "x", "etag", "b")
        for number in range(JOURNALS):
            header = encode_header(f"w{number}", "s3://bucket", "http://127.0.0.1:9", name, MOMENT)
            journal = JournalWriter(Path(name), f"w{number}", header)
            journal.write([encode_verification(record)])
            journal.close()
        index = JournalIndex(Path(name))
        started = time.process_time()
        index.refresh()
        return (time.process_time() - started) / JOURNALS
