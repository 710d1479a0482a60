"""``python -m benchmarks.batch``: how many batches, how fast, how stable.

Input: nothing (made-up trees). Output: three tables on stdout.

1. On three trees and three bounds: the lower bound ⌈total/max⌉ (plus files
   above it), our count, that of ``fpart -s``, that of a top-down cut by
   directory; bytes of what describes the batches, ours (also as a share of
   find.json, and for each batch) and fpart's.
2. Processor seconds and peak memory of the whole ``batch.py`` at 1 M and
   10 M nodes, beside fpart on the list of 1 M files.
3. 60 % of the batches proven, then 1 % of the files added, grown, removed or
   renamed, each kind by itself and all together: what moved, how the rest was
   planned; and without history the share of bytes that stays together.
"""

import argparse
import hashlib
import json
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import peers
from benchmarks.figures import note
from lading.plan.batch_plan import Plan, encode_plan
from lading.plan.bounds import Bounds, least_count
from lading.plan.history import History
from lading.plan.ownership import owned_spans
from lading.plan.planner import BatchPlanner, plan_batches
from lading.plan.spans import find_span
from lading.testing.generated_trees import ROOT, SHAPES, Content, write
from lading.tree.json_reader import read_tree
from lading.tree.size_tree import DIRECTORY, FILE, FlatTree, TreeMeta, meta_path, write_meta
from lading.tree.tree_index import TreeIndex

REPOSITORY = Path(__file__).resolve().parent.parent.parent
BOUNDS = {"10 GB": 10**10, "100 GB": 10**11, "1 TB": 10**12}
FILES = {"many small": 1_000_000, "few huge": 20_000, "zarr": 1_000_000}
PROVEN = 0.6
KINDS = ("added", "grown", "removed", "renamed")


# A child's peak counts what its parent had when it was forked, so a small process stands between.
LAUNCHER = """
import json, os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""


def measured(command: Sequence[str]) -> tuple[float, float]:
    """Return (processor seconds, peak MB) of a command."""
    output = subprocess.run([sys.executable, "-c", LAUNCHER, *command], check=True, capture_output=True, text=True)
    code, seconds, peak = json.loads(output.stdout)
    assert code == 0, f"{command} ended with {code}"
    return seconds, peak


def file_list(tree: FlatTree, path: Path) -> None:
    """Write ``size path`` lines, as ``fpart -a`` reads them."""
    with path.open("w", errors="surrogateescape") as stream:
        stream.writelines(f"{tree.sizes[node]} {name}\n" for name, node in tree.files())


def fpart(listing: Path, most: int) -> tuple[int, int, float]:
    """Return (partitions, bytes of their lists, processor seconds) of ``fpart -s``; (0, 0, 0) without fpart."""
    if peers.find("fpart") is None:
        return 0, 0, 0.0
    with tempfile.TemporaryDirectory() as directory:
        seconds, _ = measured(["fpart", "-a", "-s", str(most), "-i", str(listing), "-o", f"{directory}/part"])
        parts = [part for part in Path(directory).iterdir() if part.stat().st_size]
        return len(parts), sum(part.stat().st_size for part in parts), seconds


def top_down(tree: FlatTree, most: int) -> int:
    """Return the count of a cut by directory: a subtree that fits is a batch, else its children are looked at."""
    count = position = 0
    while position < len(tree):
        if tree.types[position] == DIRECTORY and tree.sizes[position] > most:
            position += 1
            continue
        count += tree.types[position] in (DIRECTORY, FILE)
        position = tree.ends[position]
    return count


def cut(tree: FlatTree, most: int, history: History | None = None) -> BatchPlanner:
    """Cut with a tenth of the bound as the least size."""
    return plan_batches(tree, Bounds(most // 10, most), ["."], [], history)


def plan_of(found: BatchPlanner) -> Plan:
    """Return a plan of a cut, for what needs one."""
    return Plan(ROOT, (".",), {}, found.batches, found.oversize)


def compare_counts(trees: dict[str, Path]) -> Iterator[str]:
    """Yield the first table."""
    yield f"{'tree':12}{'max':>8}{'bound':>8}{'ours':>8}{'ratio':>8}{'fpart -s':>10}{'ratio':>8}{'top-down':>10}" + (
        f"{'ratio':>9}{'our bytes':>12}{'of tree':>9}{'a batch':>9}{'fpart bytes':>13}"
    )
    for shape, path in trees.items():
        tree = read_tree(path).tree
        sizes = np.frombuffer(tree.sizes, dtype=np.int64)[np.frombuffer(tree.types, dtype=np.int8) == FILE]
        listing = path.with_name("list")
        file_list(tree, listing)
        for name, most in BOUNDS.items():
            bound = least_count(sizes, Bounds(0, most))
            found = cut(tree, most)
            ours, other = len(found.batches), top_down(tree, most)
            described = sum(map(len, encode_plan(plan_of(found))))
            parts, listed, _ = fpart(listing, most)
            # fpart puts every file above the bound into its partition 0, which stands for that many batches.
            parts += max(0, len(found.oversize) - 1) if parts else 0
            note(f"{shape}, {name}: batches of the least possible", ours / bound)
            note(f"{shape}, {name}: plan of the tree", described / path.stat().st_size)
            if parts:
                note(f"{shape}, {name}: batches of fpart's", ours / parts)
            yield (
                f"{shape:12}{name:>8}{bound:>8,}{ours:>8,}{ours / bound:>8.4f}"
                + (f"{parts:>10,}{parts / bound:>8.3f}" if parts else f"{peers.NOT_HERE:>18}")
                + (
                    f"{other:>10,}{other / bound:>9.2f}{described:>12,}{described / path.stat().st_size:>9.2%}"
                    f"{described / ours:>9,.0f}{listed:>13,}"
                )
            )


def ten_million(path: Path, target: Path) -> Path:
    """Write a tree of ten copies of another."""
    tree = read_tree(path).tree
    text = path.read_bytes().rstrip(b"\n").removeprefix(b'["release",')
    target.mkdir()
    digest = hashlib.sha256()
    with (target / "find.json").open("wb") as stream:
        for piece in [
            b'["release",0,%d' % (10 * tree.sizes[0]),
            *(b',["copy%d",%s' % (number, text) for number in range(10)),
            b"]\n",
        ]:
            digest.update(piece)
            stream.write(piece)
    write_meta(meta_path(target / "find.json"), TreeMeta(ROOT, {}, digest.hexdigest(), 0, 0, 0, 0, 0, 0, "", ""))
    return target / "find.json"


def compare_speed(trees: dict[str, Path], directory: Path) -> Iterator[str]:
    """Yield the second table."""
    yield f"{'tree':12}{'nodes':>12}{'max':>8}{'program':>10}{'cpu s':>8}{'peak MB':>9}"
    cases = [(shape, trees[shape]) for shape in ("many small", "zarr")]
    cases += [(shape, ten_million(path, directory / f"ten-{shape}")) for shape, path in cases]
    for shape, path in cases:
        nodes = len(read_tree(path).tree)
        for name, most in (("10 GB", 10**10), ("1 TB", 10**12)):
            out = path.with_name("batch.json")
            command = [sys.executable, str(REPOSITORY / "batch.py"), ROOT, "--file-tree", str(path), "-o", str(out)]
            command += ["--max-batch-size", str(most), "--min-batch-size", str(most // 10)]
            seconds, peak = measured(command)
            yield f"{shape:12}{nodes:>12,}{name:>8}{'batch.py':>10}{seconds:>8.2f}{peak:>9.0f}"
            note(f"{shape}, {nodes:,} nodes, {name}: CPU", seconds, "CPU s")
            note(f"{shape}, {nodes:,} nodes, {name}: memory", peak, "MB")
            listing = path.with_name("list")
            if listing.exists() and peers.find("fpart"):
                yield f"{shape:12}{nodes:>12,}{name:>8}{'fpart':>10}{fpart(listing, most)[2]:>8.2f}"


def changed(content: Content, chance: random.Random, share: float, kinds: Sequence[str]) -> Content:
    """Return the tree with ``share`` of its files added to, grown, removed or renamed, in equal parts of ``kinds``."""
    result: Content = {}
    for name, below in content.items():
        if isinstance(below, dict):
            result[name] = changed(below, chance, share, kinds)
            continue
        draw = chance.random() / share
        kind = kinds[int(draw * len(kinds))] if draw < 1 else ""
        if kind == "added":
            result[f"{name}.new"] = chance.randrange(below * 2 + 1)
        elif kind == "grown":
            below += below // 10 + 1
        elif kind == "removed":
            continue
        elif kind == "renamed":
            name = f"renamed-{name}"
        result[name] = below
    return result


def owner_of_nodes(tree: FlatTree, found: BatchPlanner) -> NDArray[np.int32]:
    """Return the number of the batch that owns each node, int32, shape (n,)."""
    tree_index = TreeIndex(tree)
    claims = [
        (*find_span(tree_index, entry), number) for number, batch in enumerate(found.batches) for entry in batch.paths
    ]
    owner = np.full(len(tree), -1, dtype=np.int32)
    for number, spans in owned_spans(claims).items():
        for first, last in spans:
            owner[first:last] = number
    return owner


def stays_together(before: NDArray[np.int32], after: NDArray[np.int32], sizes: NDArray[np.int64]) -> float:
    """Return the share of bytes in batches whose files are again one batch's; per file that is in both trees."""
    pairs = np.unique(before.astype(np.int64) << 32 | after)
    old, new = pairs >> 32, pairs & 0xFFFFFFFF
    alone = (np.bincount(old)[old] == 1) & (np.bincount(new)[new] == 1)
    return float(sizes[np.isin(before, old[alone])].sum() / sizes.sum())


def compare_stability(
    shape: str, old: FlatTree, content: Content, kinds: Sequence[str], directory: Path
) -> Iterator[str]:
    """Yield lines of the third table for one tree and what became of 1 % of its files."""
    new = read_tree(write(directory, changed(content, random.Random(4), 0.01, kinds))).tree
    places = dict(new.files())
    shared = [
        (path, node, places[path]) for path, node in old.files() if new.sizes[places.get(path, 0)] == old.sizes[node]
        and path in places
    ]  # fmt: skip
    old_nodes = np.array([node for _, node, _ in shared])
    new_nodes = np.array([node for _, _, node in shared])
    sizes = np.frombuffer(old.sizes, dtype=np.int64)[old_nodes]
    for name, most in BOUNDS.items():
        first = cut(old, most)
        count = len(first.batches)
        chosen = set(random.Random(5).sample(range(count), round(PROVEN * count)))
        before = owner_of_nodes(old, first)[old_nodes]
        proven_here = np.isin(before, list(chosen))
        proven = {shared[number][0] for number in np.flatnonzero(proven_here).tolist()}

        def judge(paths: Sequence[str], _sizes: Any, _times: Any, known: set[str] = proven) -> NDArray[np.bool_]:
            return np.array([path in known for path in paths], dtype=bool)

        again = cut(new, most, History(plan_of(first), judge))
        after = owner_of_nodes(new, again)[new_nodes]
        ids_before = np.array([batch.id for batch in first.batches])
        ids_after = np.array([batch.id for batch in again.batches])
        moved = int(np.count_nonzero(ids_before[before[proven_here]] != ids_after[after[proven_here]]))
        fresh = len(again.batches) - again.kept
        stateless = owner_of_nodes(new, cut(new, most))[new_nodes]
        together = stays_together(before, stateless, sizes)
        entries = sum(len(batch.paths) for batch in again.batches[again.kept :]) / max(1, fresh)
        kind = kinds[0] if len(kinds) == 1 else "all four"
        note(f"{shape}, 1 % {kind}, {name}: new batches of the least possible", fresh / max(1, again.least))
        note(f"{shape}, 1 % {kind}, {name}: verified files moved", moved, "files")
        yield (
            f"{shape:12}{kind:10}{name:>8}{count:>9,}{len(chosen):>8,}{again.kept:>8,}{moved:>7,}{again.least:>8,}"
            + (f"{fresh:>7,}{fresh / max(1, again.least):>8.3f}{entries:>9.1f}{together:>11.3f}")
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of files")
    parser.add_argument("--only", choices=["counts", "speed", "stability"], help="one table")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-batch-") as name:
        directory = Path(name)
        trees: dict[str, Path] = {}
        for shape, make in SHAPES.items():
            folder = directory / shape.replace(" ", "-")
            folder.mkdir()
            trees[shape] = write(folder, make(int(FILES[shape] * arguments.scale)))
        if arguments.only in (None, "counts", "speed"):
            for line in compare_counts(trees):
                print(line, flush=True)
        if arguments.only in (None, "speed"):
            print()
            for line in compare_speed(trees, directory):
                print(line, flush=True)
        if arguments.only in (None, "stability"):
            print(
                f"\n{'tree':12}{'1 %':10}{'max':>8}{'batches':>9}{'proven':>8}{'kept':>8}{'moved':>7}{'bound':>8}"
                f"{'new':>7}{'ratio':>8}{'entries':>9}{'stateless':>11}"
            )
            for shape, make in SHAPES.items():
                content = make(int(FILES[shape] * arguments.scale))
                old = read_tree(write(directory, content)).tree
                for kinds in (*((kind,) for kind in KINDS), KINDS):
                    for line in compare_stability(shape, old, content, kinds, directory):
                        print(line, flush=True)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"bench": "batch", "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1)}))


if __name__ == "__main__":
    main()
