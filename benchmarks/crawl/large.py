"""Ten million entries beside one million: memory and time an entry must not grow."""

import os
import subprocess
from pathlib import Path

from benchmarks import peers
from benchmarks.crawl.measure import find_py
from benchmarks.figures import note

LARGE = int(os.environ.get("LADING_BENCH_LARGE", "10000000"))
FILES_EACH = 19


def build_made_up(scratch: Path) -> tuple[Path, str]:
    """Make the root of a made-up file system and an empty directory ``void``; returns it and the library to preload."""
    library = scratch / "fake.so"
    source = Path(__file__).with_name("fake.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    root = scratch / "made-up"
    (root / "fake").mkdir(parents=True, exist_ok=True)
    (scratch / "void").mkdir(exist_ok=True)
    return root, str(library)


def large(scratch: Path) -> None:
    """Crawl a made-up file system of one and of ``LARGE`` entries."""
    if peers.lacks_compiler("the made-up file system"):
        return
    root, library = build_made_up(scratch)
    base = find_py(scratch / "void", "--max-workers", "2")
    print(f"\nA made-up file system (load {os.getloadavg()[0]:.0f}); interpreter alone: {base.memory:.0f} MB")
    print(f"{'entries':>12}{'wall s':>9}{'CPU s':>8}{'MB':>7}{'bytes/entry':>13}{'CPU µs/entry':>14}")
    for entries in (1_000_000, LARGE):
        directories = entries // (FILES_EACH + 1)
        os.environ |= {"LADING_FAKE_DIRS": str(directories), "LADING_FAKE_FILES": str(FILES_EACH)}
        cost = find_py(root, "--max-workers", "2", preload=library)
        each, pace = (cost.memory - base.memory) * 1048576 / entries, cost.cpu * 1e6 / entries
        print(f"{entries:12,}{cost.wall:9.2f}{cost.cpu:8.2f}{cost.memory:7.0f}{each:13.1f}{pace:14.2f}")
        note(f"{entries:,} entries: memory", each, "B an entry")
        note(f"{entries:,} entries: CPU", pace, "µs an entry")
