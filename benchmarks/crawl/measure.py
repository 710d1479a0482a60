"""Run a command and say what it cost: seconds, CPU seconds, peak memory."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from benchmarks import peers

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds, peak memory in MB; ``crawl``: the seconds from the first look to the meta file."""

    wall: float
    cpu: float
    memory: float
    crawl: float = 0.0


def run_once(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Cost:
    """Run one command; its output goes nowhere. Raises when it fails."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, env={**os.environ, **(environment or {})}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"exit {process.returncode}: {command}")
    return Cost(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def medians(runs: Mapping[str, Callable[[], Cost]], rounds: int) -> dict[str, Cost]:
    """Run all in turn, ``rounds`` times, and return the median of each figure."""
    costs: dict[str, list[Cost]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            costs[name].append(run())
    return {
        name: Cost(*(statistics.median(getattr(cost, field) for cost in found) for field in ("wall", "cpu", "memory")))
        for name, found in costs.items()
    }


def find_py(
    root: Path, *flags: str, ranks: int = 1, python: bool = False, preload: str = "", microseconds: int = 0
) -> Cost:
    """Crawl with ``find.py`` into a file that is thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable]
        if ranks > 1:
            command = [peers.find("mpiexec") or "mpiexec", "-n", str(ranks), sys.executable, "-m", "mpi4py"]
        command += [str(REPOSITORY / "find.py"), str(root), *flags, "-o", f"{scratch}/find.json"]
        environment = {"PYTHONPATH": str(REPOSITORY), "LADING_WALK": "python" if python else ""}
        if preload:
            environment |= {"LD_PRELOAD": preload, "LADING_LATENCY_US": str(microseconds)}
        cost = run_once(command, environment)
        meta = json.loads(Path(scratch, "find.meta.json").read_text())
        began, ended = (datetime.fromisoformat(meta[name]) for name in ("started", "ended"))
        return replace(cost, crawl=(ended - began).total_seconds())


def build_shim(directory: Path) -> str:
    """Compile the slow metadata server; returns the library's path."""
    library = directory / "latency.so"
    source = Path(__file__).with_name("latency.c")
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return str(library)
