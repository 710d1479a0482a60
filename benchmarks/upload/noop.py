"""A run over N proven objects that has nothing to do: ``python -m benchmarks.upload.noop [1000000]``.

Makes a tree of N files on paper (find.json and journal are written, the files
are not: a run that has nothing to send reads none of them), cuts it, and times
``upload.py`` in a process of its own. Prints seconds, peak memory, and the
time to open the journal index with and without its index.
"""

import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lading.journal.journal_index import JournalIndex
from lading.journal.journal_writer import JournalWriter
from lading.journal.records import VerificationRecord, encode_header, encode_verification
from lading.objectstore.keys import KeyPrefix
from lading.plan.objects import PlannedObjects
from lading.tree.size_tree import TreeMeta, meta_path, write_meta

HERE = Path(__file__).resolve().parent.parent.parent
PER_DIRECTORY = 1000
SIZE = 12_345
WRITERS = 4
MOMENT = "2026-01-01T00:00:00Z"


def write_tree(path: Path, root: Path, count: int) -> None:
    """Write the size tree of ``count`` files, 1,000 to a directory."""
    directories = []
    for first in range(0, count, PER_DIRECTORY):
        names = [f"f{number:09d}.dat" for number in range(first, min(first + PER_DIRECTORY, count))]
        directories.append([f"d{first:09d}", 0, SIZE * len(names), *([name, 1, SIZE] for name in names)])
    tree = [root.name, 0, SIZE * count, *directories]
    data = (json.dumps(tree, separators=(",", ":")) + "\n").encode()
    path.write_bytes(data)
    moment, entries = "2026-01-01T00:00:00Z", 1 + len(directories) + count
    meta = TreeMeta(
        str(root),
        {},
        hashlib.sha256(data).hexdigest(),
        entries,
        count,
        1 + len(directories),
        0,
        0,
        SIZE * count,
        moment,
        moment,
    )
    write_meta(meta_path(path), meta)


def write_journals(inventory: PlannedObjects, endpoint: str) -> None:
    """Write proofs of every object, by some writers."""
    journal_index = JournalIndex(inventory.journal)
    place, root = str(inventory.place), inventory.plan.root
    journals = [
        JournalWriter(inventory.journal, f"w{n}", encode_header(f"w{n}", place, endpoint, root, MOMENT))
        for n in range(WRITERS)
    ]
    digest = "0123456789abcdef" * 2
    for number in range(len(inventory.batches)):
        records = [
            encode_verification(
                VerificationRecord(
                    i.key, i.size, 1, digest, "2026-01-01T00:00:00Z", digest, digest * 2, "x", "etag", i.batch
                )
            )
            for i, _ in inventory.items(number, journal_index)
        ]
        journals[number % WRITERS].write(records)
    for journal in journals:
        journal.close()


def timed_run(command: list[str], directory: Path) -> tuple[float, float, str]:
    """Return (seconds, CPU seconds, output) of a command."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if done.returncode:
        sys.exit(done.stderr)
    return seconds, cpu, done.stdout


def main() -> None:
    """Run and print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    environment = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none"}
    os.environ.update(environment, PYTHONPATH=str(HERE))
    with tempfile.TemporaryDirectory(prefix="noop-") as name:
        directory = Path(name)
        release = directory / "data"
        release.mkdir()
        write_tree(directory / "find.json", release, count)
        cut = [sys.executable, str(HERE / "batch.py"), str(release), "--file-tree", "find.json"]
        timed_run([*cut, "--min-batch-size", "100M", "--max-batch-size", "1G", "-o", "batch.json"], directory)
        endpoint = "http://127.0.0.1:9"  # nothing listens there: nothing may ask
        inventory = PlannedObjects(str(directory), KeyPrefix("bucket"), directory / "batch.json", "{}")
        inventory.journal.mkdir()
        write_journals(inventory, endpoint)
        started = time.perf_counter()
        JournalIndex(inventory.journal)
        print(f"journal index of {count:,} objects opened by its index in {time.perf_counter() - started:.2f} s")
        for path in inventory.journal.glob("*.index"):
            path.rename(path.with_suffix(".aside"))
        started = time.perf_counter()
        JournalIndex(inventory.journal)
        print(f"the same read from the journals in {time.perf_counter() - started:.2f} s")
        for path in inventory.journal.glob("*.aside"):
            path.rename(path.with_suffix(".index"))
        command = [sys.executable, str(HERE / "upload.py"), str(directory), "--bucket", "s3://bucket"]
        seconds, cpu, output = timed_run([*command, "--endpoint-url", endpoint], directory)
        if "nothing to send" not in output:
            sys.exit(output)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        print(f"run over {count:,} proven objects: {seconds:.1f} s wall, {cpu:.1f} s CPU, peak {peak:.0f} MB")


if __name__ == "__main__":
    main()
