"""``python -m benchmarks [NAME[:WORD…]…]``: every benchmark in turn, or those named, and one table of all figures.

``python -m benchmarks compare A.json B.json`` sets two such files side by side.

Input: names of the folders beside this file, with words for them:
``crawl:warm`` is ``python -m benchmarks.crawl warm``. Output: their own
tables; then each figure's median, spread and the machine's load, also as JSON.
Invariant: each prints ratios to peers that it measured in the same run. A
benchmark is repeated until its ratios are steady, or its rounds or minutes
are used up; one that fails gives no figure.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.figures import FILE_VARIABLE, NAME_VARIABLE, Figure, read_figures
from benchmarks.results import collect, compare, encode, is_steady, read_results, table
from lading.core.atomic import atomic_write
from lading.core.command_line import run_main

HERE = Path(__file__).resolve().parent


def run_round(name: str, words: Sequence[str], scratch: Path) -> tuple[int, list[Figure]]:
    """Run a benchmark once; returns its exit code and what it noted."""
    file = scratch / "figures"
    file.unlink(missing_ok=True)
    environment = {**os.environ, FILE_VARIABLE: str(file), NAME_VARIABLE: name}
    command = [sys.executable, "-m", f"benchmarks.{name}", *words]
    code = subprocess.run(command, cwd=HERE.parent, env=environment, check=False).returncode
    return code, [] if code else list(read_figures(file))


def run_bench(wanted: str, options: argparse.Namespace, scratch: Path) -> tuple[int, list[list[Figure]]]:
    """Run a benchmark until its ratios are steady; returns its first failure and the figures of each round."""
    name, *words = wanted.split(":")
    rounds: list[list[Figure]] = []
    until = time.monotonic() + 60 * options.minutes
    while len(rounds) < options.rounds:
        began = time.monotonic()
        print(f"== {wanted}, round {len(rounds) + 1} (load {os.getloadavg()[0]:.1f})", flush=True)
        code, figures = run_round(name, words, scratch)
        if code:
            return code, rounds
        rounds.append(figures)
        if not figures or is_steady(collect(rounds), options.spread):
            break
        if 2 * time.monotonic() - began > until:  # another one would take as long
            break
    return 0, rounds


def make_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure each stage beside its peers.")
    add = parser.add_argument
    add("names", nargs="*", metavar="NAME[:WORD…]", help="benchmarks, with words for them (all)")
    add("--json", type=Path, metavar="FILE", help="write the figures there")
    add("--rounds", type=int, default=3, metavar="N", help="most rounds of each (3)")
    add("--minutes", type=float, default=60.0, metavar="N", help="no round begins that would end later (60)")
    add("--spread", type=float, default=0.05, metavar="SHARE", help="ratios are steady within this share (0.05)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmarks; returns 2 for an unknown name, else the first failure."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["compare"]:
        if len(words) != 3:
            print("error: compare takes two files: python -m benchmarks compare A.json B.json", file=sys.stderr)
            return 2
        before, after = (read_results(Path(word)) for word in words[1:])
        print("\n".join(compare(before, after)))
        return 0
    options = make_parser().parse_args(words)
    known = sorted(path.parent.name for path in HERE.glob("*/__main__.py"))
    unknown = [name for name in options.names if name.split(":")[0] not in known]
    if unknown:
        print(f"error: no benchmark {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    code, rounds, started = 0, [], now()
    with tempfile.TemporaryDirectory(prefix="lading-bench-") as scratch:
        for name in options.names or known:
            failed, found = run_bench(name, options, Path(scratch))
            code = code or failed
            rounds += found
    results = collect(rounds)
    if results:
        print()
        print("\n".join(table(results)), flush=True)
    if options.json:
        with atomic_write(options.json) as stream:
            stream.write(encode(results, started, now()))
    return code


def now() -> str:
    """Return the time as ISO 8601 UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


if __name__ == "__main__":
    sys.exit(run_main(main))
