"""What a further rank of a host costs a launch: ``measure_ranks(command)``.

Input: a command, run as ranks of one ``mpiexec``. Output: processor seconds
and peak bytes of the first rank, and of a further one.
Invariant: only memory of a process's own is counted (``RssAnon``), since what
ranks map together, or from the page cache, is there once however many they are.
"""

import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import peers

RANKS = 3
LOOK_SECONDS = 0.02
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class RankCost:
    """Of one rank, as last seen: processor seconds, and the most bytes of its own."""

    seconds: float = 0.0
    own: int = 0


def measure_ranks(command: Sequence[str], ranks: int = RANKS) -> list[RankCost]:
    """Run ``command`` as ranks of one launch, and return what each cost, the first rank first."""
    costs = [RankCost() for _ in range(ranks)]
    process = subprocess.Popen(
        [peers.find("mpiexec") or "mpiexec", "-n", str(ranks), *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    found: dict[int, int] = {}
    while process.poll() is None:
        if len(found) < ranks:
            found |= find_ranks(process.pid)
        for pid, rank in found.items():
            look(pid, costs[rank])
        time.sleep(LOOK_SECONDS)
    assert process.stderr
    assert process.returncode == 0, process.stderr.read()
    return costs


def find_ranks(launcher: int) -> dict[int, int]:
    """Return {process id: rank} of the processes below a launcher that have begun as ranks."""
    found = {}
    for pid in _below(launcher):
        try:
            words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            is_python = b"python" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]
        except OSError:
            continue
        ranks = [int(word[9:]) for word in words if word.startswith(b"PMI_RANK=")]
        if ranks and is_python and ranks[0] not in found.values():
            found[pid] = ranks[0]
    return found


def look(pid: int, cost: RankCost) -> None:
    """Note what a process took so far; nothing when it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return
    own = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")]
    cost.own = max(cost.own, *own, 0)
    cost.seconds = max(cost.seconds, (int(fields[11]) + int(fields[12])) / _TICKS)


def _below(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *_below(child)]
    return found
