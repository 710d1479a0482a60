"""A journal index of N objects, opened: ``python -m benchmarks.upload.journal_index [10000000]``.

Writes the journals of four writers as an upload does, then opens the index in processes of their own: by its indexes,
and from the journals alone. Prints seconds, and the peak of the memory that is the process's own and of all that it has
mapped, from which the kernel may take the index's pages back at any time.

``--in DIRECTORY`` makes the journals there on its first call and measures on the second, when nothing else runs.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from lading.journal.index_file import index_path
from lading.journal.index_rows import hash_keys
from lading.journal.journal_index import JournalIndex
from lading.journal.journal_writer import JournalWriter
from lading.journal.records import VerificationRecord, encode_header, encode_verification

WRITERS = 4
GROUP = 1000  # records written and synced at a time, as an upload does
MOMENT = "2026-01-01T00:00:00Z"


def key_of(number: int) -> str:
    """Return the key of an object, of a length that is usual."""
    return f"public/dr1/spectro/data/d{number // 1000:06d}/f{number:09d}.fits"


def write_journal(directory: Path, writer: int, first: int, last: int) -> None:
    """Write the proofs of the objects from ``first`` to before ``last``, one file each."""
    header = encode_header(f"w{writer}", "s3://bucket/", None, "/data", MOMENT)
    journal = JournalWriter(directory, f"w{writer}", header)
    for start in range(first, last, GROUP):
        records = []
        for number in range(start, min(start + GROUP, last)):
            md5 = f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}"
            records.append(
                encode_verification(
                    VerificationRecord(
                        key_of(number), number, 1, md5, MOMENT, md5, md5 * 2, "lRhhSIkmsgw=", "etag", "b0000001-1a2b"
                    )
                )
            )
        journal.write(records)
    journal.close()


def memory() -> tuple[int, int]:
    """Return (bytes of this process's own, all bytes in memory)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024, int(fields["VmHWM"].split()[0]) * 1024


def timed(name: str, work: Callable[[], object]) -> object:
    """Do a piece of work and print what it took beyond the start of the process."""
    before, _ = memory()
    peak, ended = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.01):
            peak = max(peak, memory()[0])

    watcher = threading.Thread(target=watch)
    watcher.start()
    started = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    own = max(peak, memory()[0])
    print(f"{name:40}{seconds:9.2f} s{own / 1e6:9.0f} MB own{memory()[1] / 1e6:9.0f} MB in all", flush=True)
    return result


def open_ledger(directory: Path, name: str, count: int) -> None:
    """Open an index, ask it for a thousand objects in the middle; ends the process when one of them is not proven."""
    journal_index = timed(f"opened {name}", lambda: JournalIndex(directory))
    assert isinstance(journal_index, JournalIndex)
    asked = range(count // 2, min(count // 2 + 1000, count))
    found = journal_index.find(hash_keys(map(key_of, asked)))
    if journal_index.objects != count or journal_index.damaged or not found.proven(list(asked)).all():
        sys.exit(f"{journal_index.objects} of {count} objects, {journal_index.damaged} damaged lines")
    if name == "without":
        timed("its indexes written", journal_index.write_indexes)
    if name == "and compacted":
        header = encode_header("w9", "s3://bucket/", None, "/data", MOMENT)
        timed("compacted", lambda: journal_index.compact(header))


def make_journals(directory: Path, count: int) -> None:
    """Write the journals, two writers at a time on two cores."""
    started = time.perf_counter()
    bounds = [count * number // WRITERS for number in range(WRITERS + 1)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(write_journal, [directory] * WRITERS, range(WRITERS), bounds[:-1], bounds[1:]))
    size = sum(path.stat().st_size for path in directory.glob("*.jsonl"))
    print(f"{count:,} objects, {size / 1e9:.2f} GB of journals, in {time.perf_counter() - started:.0f} s", flush=True)


def measure(directory: Path, count: int, ways: list[str]) -> None:
    """Open the index in each way in a process of its own; the journals are changed by the later ways."""
    for way in ways:
        if way == "without":
            for path in directory.glob("*.jsonl"):
                index_path(path).unlink(missing_ok=True)
        command = [sys.executable, "-m", "benchmarks.upload.journal_index", str(count), "--open", str(directory), way]
        subprocess.run(command, check=True)


def main() -> None:
    """Make the journals, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("objects", type=int, nargs="?", default=10_000_000)
    parser.add_argument("--compact", action="store_true", help="last of all, make one snapshot of the journals")
    parser.add_argument(
        "--in", dest="place", type=Path, metavar="DIRECTORY", help="make the journals here, or use those here"
    )
    parser.add_argument("--open", nargs=2, metavar=("DIRECTORY", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        open_ledger(Path(arguments.open[0]), arguments.open[1], arguments.objects)
        return
    ways = ["by its indexes", "without"] + (["and compacted"] if arguments.compact else [])
    with tempfile.TemporaryDirectory(prefix="bench-index-") as name:
        directory = arguments.place or Path(name)
        if not directory.is_dir() or not any(directory.glob("*.jsonl")):
            directory.mkdir(exist_ok=True)
            make_journals(directory, arguments.objects)
            if arguments.place:
                return
        measure(directory, arguments.objects, ways)


if __name__ == "__main__":
    main()
