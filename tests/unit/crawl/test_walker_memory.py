"""A walk that lacks memory ends with an error and leaves nothing: each allocation of the core fails once, in turn."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lading.crawl.walker import has_core
from tests import crawling
from tests.conftest import REPOSITORY, need, need_program

# Run with the failing memory preloaded: walks the tree once for each allocation and prints what came of it.
RUNNER = """
import ctypes, json, os, sys
from lading.crawl import _walk
from lading.tree.globs import parse_glob
from lading.crawl.options import Options
from lading.crawl.walker import make_walker
from tests.crawling import text

root, kind, ever = sys.argv[1], sys.argv[2], sys.argv[3] == "ever"
shim = ctypes.CDLL(None)
shim.memory_watch.argtypes = [ctypes.c_size_t] * 2
maps = [line.split() for line in open("/proc/self/maps") if line.rstrip().endswith(_walk.__file__)]
spans = [[int(number, 16) for number in line[0].split("-")] for line in maps]
shim.memory_watch(min(span[0] for span in spans), max(span[1] for span in spans))

if kind == "follow":
    options = Options(workers=3, links="follow", mtime=True, log_depth=2, exclude=(parse_glob("never/here"),))
elif kind == "known":
    options = Options(workers=2, stamps=True)
else:
    options = Options(workers=2, hard_links="once")

def drain(walker):
    while not walker.wait(0.01):
        walker.logged()
    walker.end()
    walker.faults()

def alone():
    walker = make_walker(root, options, core=True)
    walker.start()
    drain(walker)
    walker.settle()
    return text(walker, room=1 << 16)

def shared():
    walkers = [make_walker(root, options, seed=not rank, core=True) for rank in range(2)]
    for walker in walkers:
        walker.start()
    while not all(walker.wait(0.001) for walker in walkers):
        for rank, walker in enumerate(walkers):
            for item in walker.take(4):
                walkers[1 - rank].give(rank, *item)
    for walker in walkers:
        walker.end()
    for rank, walker in enumerate(walkers):
        index = 0
        while (shard := walker.shard(index)) is not None:
            walkers[0].add_shard(rank, shard)
            index += 1
    walkers[0].settle()
    return text(walkers[0], room=1 << 16)

def know_again():
    "What an earlier crawl knows, with one directory changed since; at last the stamps of the next."
    walker = make_walker(root, options, core=True)
    walker.know(*known)
    walker.start()
    drain(walker)
    walker.settle()
    while walker.stamps(1 << 62, 1 << 16):
        pass
    return text(walker, room=1 << 16)

if kind == "known":
    from pathlib import Path
    from lading.tree.json_reader import read_tree
    first = make_walker(root, options, core=True)
    first.start()
    drain(first)
    first.settle()
    Path(root + ".json").write_bytes(text(first, room=1 << 16))
    tree = read_tree(Path(root + ".json")).tree
    known = [tree.types, tree.sizes, tree.ends, tree.names, tree.offsets, None, first.stamps(1 << 62, 1 << 20)]
    os.mkdir(root + "/linked/below/new")
    del first

walk = {"shared": shared, "known": know_again}.get(kind, alone)
shim.memory_fail(0, False)
def left():
    "What the core still holds: allocations and descriptors."
    return shim.memory_held(), len(os.listdir("/proc/self/fd"))

whole = walk()
nothing = left()
outcomes = {"whole": 0, "error": 0, "short": [], "wrong": [], "left": []}
number, step = 1, int(sys.argv[4])
while True:
    shim.memory_fail(number, ever)
    try:
        found = walk()
    except MemoryError:
        outcomes["error"] += 1
    except OSError as error:  # no thread could be started
        outcomes["error"] += 1
        if "thread" not in str(error):
            outcomes["wrong"].append([number, repr(error)])
    except BaseException as error:
        outcomes["wrong"].append([number, repr(error)])
    else:
        outcomes["whole"] += 1
        if found != whole:
            outcomes["short"].append(number)
    seen = shim.memory_seen()
    shim.memory_fail(0, False)
    if left() != nothing:
        outcomes["left"].append([number, left()])
        nothing = left()
    if seen < number:
        break
    number += step
print(json.dumps(outcomes | {"allocations": number, "size": len(whole)}))
"""


@pytest.mark.parametrize("ever", ["once", "ever"])
@pytest.mark.parametrize("kind", ["follow", "once", "shared", "known"])
def test_no_memory_is_never_a_smaller_tree(tmp_path: Path, kind: str, ever: str) -> None:
    need_program("gcc")
    need(None if has_core() else "not built: the compiled walk")
    shim = tmp_path / "memory.so"
    source = REPOSITORY / "tests" / "failing_malloc.c"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", shim, source], check=True)
    root = tmp_path / "tree"
    crawling.make_hostile(root, 5, size=20)
    (root / "linked").mkdir()
    (root / "linked" / "file").write_bytes(b"found behind a link")
    (root / "linked" / "below" / "it").mkdir(parents=True)
    for number in range(2):
        (root / f"to{number}").symlink_to("linked")
    # More entries than one buffer of the kernel holds, and more levels than one stack.
    for number in range(800):
        (root / "linked" / f"{number:05d}{'-' * 60}").touch()
    result = subprocess.run(
        [sys.executable, "-c", RUNNER, str(root), kind, ever, "1" if ever == "once" else "4"],
        env=os.environ | {"LD_PRELOAD": str(shim), "PYTHONMALLOC": "malloc"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    outcomes = json.loads(result.stdout)
    assert outcomes["short"] == outcomes["wrong"] == outcomes["left"] == []
    assert outcomes["error"] > 8
    assert outcomes["size"] > 50_000
