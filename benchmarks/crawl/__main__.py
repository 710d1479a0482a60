"""``python -m benchmarks.crawl [warm] [latency] [ranks] [large] [lists]``: the tables of the crawl, all by default.

Sizes by environment: LADING_BENCH_FILES (1,000,000), LADING_BENCH_ROUNDS (5),
LADING_BENCH_LARGE (10,000,000), LADING_BENCH_TREE (a tree made before),
LADING_BENCH_EACH (2,500 files a thread under latency).
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import peers
from benchmarks.choice import choose_tables
from benchmarks.crawl.large import large
from benchmarks.crawl.lists import lists
from benchmarks.crawl.measure import Cost, build_shim, find_py, medians, run_once
from benchmarks.crawl.trees import make_tree
from benchmarks.figures import note

FILES = int(os.environ.get("LADING_BENCH_FILES", "1000000"))
ROUNDS = int(os.environ.get("LADING_BENCH_ROUNDS", "5"))
EACH = int(os.environ.get("LADING_BENCH_EACH", "2500"))


def warm(scratch: Path) -> None:
    """GNU find and du beside the crawl, from memory."""
    root = Path(os.environ.get("LADING_BENCH_TREE") or scratch / "warm")
    if not root.exists():
        make_tree(root, FILES)
    runs: dict[str, Callable[[], Cost]] = {
        "GNU find -printf": lambda: run_once(["find", str(root), "-printf", "%s %p\n"]),
        "du --apparent-size": lambda: run_once(["du", "-s", "--apparent-size", str(root)]),
        "Python walk": lambda: find_py(root, python=True),
    }
    for workers in (1, 2, 8, 32):
        runs[f"core, {workers} threads"] = lambda workers=workers: find_py(root, "--max-workers", str(workers))
    runs["core, 2 ranks"] = lambda: find_py(root, "--max-workers", "1", ranks=2)
    runs["GNU find -printf"]()
    costs = medians(runs, ROUNDS)
    base = costs["GNU find -printf"]
    print(f"\nWarm, {FILES:,} files, medians of {ROUNDS} rounds, JSON written to disk (load {os.getloadavg()[0]:.0f})")
    print(f"{'':22}{'wall s':>8}{'CPU s':>8}{'MB':>7}{'wall/find':>11}{'CPU/find':>10}")
    for name, cost in costs.items():
        print(
            f"{name:22}{cost.wall:8.2f}{cost.cpu:8.2f}{cost.memory:7.0f}"
            f"{cost.wall / base.wall:11.2f}{cost.cpu / base.cpu:10.2f}"
        )
        if cost is not base:
            note(f"warm, {name}: wall of find", cost.wall / base.wall)
            note(f"warm, {name}: CPU of find", cost.cpu / base.cpu)
    note("warm, two ranks: CPU of two threads", costs["core, 2 ranks"].cpu / costs["core, 2 threads"].cpu)


def latency(scratch: Path) -> None:
    """Threads against a slow metadata server; also with 90 % of the files in one directory."""
    if peers.lacks_compiler("the slow metadata server"):
        return
    shim = build_shim(scratch)
    microseconds = int(os.environ.get("LADING_BENCH_LATENCY_US", "1000"))
    for title, share in (("20 files a directory", 0.0), ("90 % in one directory", 0.9)):
        print(f"\n{microseconds / 1000:g} ms each metadata call, {title} (load {os.getloadavg()[0]:.0f})")
        print(f"{'threads':>8}{'files':>9}{'wall s':>9}{'files/s':>10}{'times one':>11}")
        one = 0.0
        for threads in (1, 8, 32, 128):
            # As many a thread for all: a smaller tree would time the start and the end.
            files = EACH * threads
            root = scratch / f"slow-{files}-{share}"
            make_tree(root, files, share)
            wall = find_py(root, "--max-workers", str(threads), preload=shim, microseconds=microseconds).crawl
            shutil.rmtree(root)
            rate = files / wall
            one = one or rate
            print(f"{threads:8}{files:9}{wall:9.2f}{rate:10.0f}{rate / one:11.1f}")
            if threads > 1:
                note(f"latency, {title}, {threads} threads: times one", rate / one, better="more")


def ranks(scratch: Path) -> None:
    """One to four ranks of eight threads against a slow metadata server."""
    if peers.lacks_compiler("the slow metadata server"):
        return
    shim = build_shim(scratch)
    microseconds = int(os.environ.get("LADING_BENCH_RANKS_US", "4000"))
    root = scratch / "ranks"
    make_tree(root, 20_000, 0.0)
    print(
        f"\n{microseconds / 1000:g} ms a metadata call, 20,000 files, 8 threads a rank (load {os.getloadavg()[0]:.0f})"
    )
    print(f"{'ranks':>8}{'wall s':>9}{'CPU s':>8}{'times one':>11}")
    one = 0.0
    for count in (1, 2, 4):
        cost = find_py(root, "--max-workers", "8", ranks=count, preload=shim, microseconds=microseconds)
        wall = cost.crawl
        one = one or wall
        print(f"{count:8}{wall:9.2f}{cost.cpu:8.2f}{one / wall:11.2f}")
        if count > 1:
            note(f"latency, {count} ranks: times one", one / wall, better="more")


TABLES = {"warm": warm, "latency": latency, "ranks": ranks, "large": large, "lists": lists}


def main() -> None:
    """Print the tables that were asked for."""
    chosen = choose_tables(__doc__, TABLES)
    scratch = Path(tempfile.mkdtemp(prefix="lading-bench-"))
    started = time.monotonic()
    try:
        for name in chosen:
            TABLES[name](scratch)
            sys.stdout.flush()
    finally:
        shutil.rmtree(scratch)
    print(f"\n{time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
