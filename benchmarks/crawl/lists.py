"""Ten million lines of a file system's own inventory, in several forms, against the crawl of the same entries."""

import csv
import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import peers
from benchmarks.crawl.large import FILES_EACH, LARGE, build_made_up
from benchmarks.crawl.measure import REPOSITORY, Cost, find_py, run_once
from benchmarks.figures import note


def sizes_of_files() -> list[tuple[str, int]]:
    """Return the names and sizes that each directory of the made-up file system has (fake.c)."""
    found = []
    for number in range(FILES_EACH):
        name, size = f"sci-{number:05d}.fz", 0
        for character in name:
            size = (size * 31 + ord(character)) & 0xFFFFFFFFFFFFFFFF
        found.append((name, size & 0xFFFFFF))
    return found


def walked(root: str, count: int) -> Iterator[tuple[str, str, int]]:
    """Yield (letter, path, size) of all entries, directory by directory."""
    files = sizes_of_files()
    yield "d", root, 0
    yield "d", f"{root}/fake", 0
    for number in range(count):
        above = f"{root}/fake/{number:07d}"
        yield "d", above, 4096
        for name, size in files:
            yield "f", f"{above}/{name}", size


def by_inode(root: str, count: int) -> Iterator[tuple[str, str, int]]:
    """Yield the same in an order in which no two lines that follow one another are in one directory."""
    yield "d", root, 0
    yield "d", f"{root}/fake", 0
    for name, size in sizes_of_files():
        for number in range(count):
            yield "f", f"{root}/fake/{number:07d}/{name}", size
    for number in range(count):
        yield "d", f"{root}/fake/{number:07d}", 4096


def write_printed(path: Path, root: str, count: int) -> None:
    """Write what ``find -printf`` prints."""
    with path.open("w") as stream:
        stream.writelines(f"{kind} {size} 0.0000000000 {name}\0" for kind, name, size in walked(root, count))


def write_policy(path: Path, root: str, count: int) -> None:
    """Write what ``mmapplypolicy`` writes."""
    modes = {"d": "drwxr-xr-x", "f": "-rw-r--r--"}
    with path.open("w") as stream:
        stream.writelines(
            f"{number} 65536 0  {modes[kind]} {size} -- {name}\n"
            for number, (kind, name, size) in enumerate(by_inode(root, count))
        )


def write_commas(path: Path, root: str, count: int) -> None:
    """Write a table with a header."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("parent_path", "name", "element_type", "size"))
        for kind, name, size in walked(root, count):
            above, _, last = name.rpartition("/")
            writer.writerow((above, last, "DIR" if kind == "d" else "FILE", size))


def write_parquet(path: Path, root: str, count: int) -> None:
    """Write the same as Parquet."""
    import pyarrow.csv
    import pyarrow.parquet

    source = path.with_suffix(".csv")
    with pyarrow.csv.open_csv(source) as reader, pyarrow.parquet.ParquetWriter(path, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


FORMS: dict[str, tuple[str, Callable[[Path, str, int], None]]] = {
    "find -printf": ("list.txt", write_printed),
    "GPFS, by inode": ("list.gpfs", write_policy),
    "csv": ("list.csv", write_commas),
    "Parquet": ("list.parquet", write_parquet),
}


def lists(scratch: Path) -> None:
    """Read lists of one and of ``LARGE`` entries; each gives the bytes of the crawl."""
    if peers.lacks_compiler("the made-up file system"):
        return
    root, library = build_made_up(scratch)
    base = find_py(scratch / "void", "--max-workers", "2")
    print(f"\nLists of a made-up file system (load {os.getloadavg()[0]:.0f}); interpreter alone: {base.memory:.0f} MB")
    print(f"{'':18}{'entries':>12}{'wall s':>9}{'CPU s':>8}{'MB':>7}{'bytes/entry':>13}{'CPU µs/entry':>14}")
    for entries in (1_000_000, LARGE):
        count = entries // (FILES_EACH + 1)
        os.environ |= {"LADING_FAKE_DIRS": str(count), "LADING_FAKE_FILES": str(FILES_EACH)}
        crawled = scratch / "crawled.json"
        environment = {"PYTHONPATH": str(REPOSITORY), "LD_PRELOAD": library}
        command = [peers.find("python") or "python3", "-m", "lading", "find", str(root), "--max-workers", "2"]
        show("crawl", entries, run_once([*command, "-o", str(crawled)], environment), base)
        for name, (file, _) in FORMS.items():
            path, out = scratch / file, scratch / "listed.json"
            # In a process of its own: the kernel counts what the parent holds as a child's peak.
            writing = [command[0], "-m", "benchmarks.crawl.lists", name, str(path), str(root), str(count)]
            run_once(writing, {"PYTHONPATH": str(REPOSITORY)})
            cost = run_once([*command, "--from", str(path), "-o", str(out)], {"PYTHONPATH": str(REPOSITORY)})
            show(name, entries, cost, base)
            if digest(out) != digest(crawled):
                raise RuntimeError(f"the tree of the list {path} is not that of the crawl")
            if file != "list.csv":
                path.unlink()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def show(name: str, entries: int, cost: Cost, base: Cost) -> None:
    """Print one line."""
    each, pace = (cost.memory - base.memory) * 1048576 / entries, cost.cpu * 1e6 / entries
    print(
        f"{name:18}{entries:12,}{cost.wall:9.2f}{cost.cpu:8.2f}{cost.memory:7.0f}{each:13.1f}{pace:14.2f}", flush=True
    )
    note(f"list of {entries:,}, {name}: memory", each, "B an entry")
    note(f"list of {entries:,}, {name}: CPU", pace, "µs an entry")


if __name__ == "__main__":
    FORMS[sys.argv[1]][1](Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
