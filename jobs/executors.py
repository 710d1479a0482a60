"""Who does the jobs of a list: this process or the ranks of an MPI allocation; Slurm arrays are in jobs/arrays.py.

Input: jobs and settings. Output: one ``Outcome`` per job, in the list's order.
Invariant: every executor runs the same ``run_job``; what a scheduler or a
launcher reports is at most a hint: the journals say what is done.
"""

import json
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from jobs.journal import FAILED
from jobs.model import Job
from jobs.outcome import Outcome
from lading.bounded import decode
from lading.cluster.alive import Heartbeat, Watch
from lading.cluster.mpi import World
from lading.files import read_record, replacing

Runner = Callable[[Job], Outcome]
POLL = 0.25


class Executor(Protocol):
    """Runs jobs and tells what became of each."""

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Return one outcome per job, in order."""


@dataclass(frozen=True)
class Local:
    """Jobs in this process, ``parallel`` side by side; their heavy work is in programs of their own."""

    runner: Runner
    parallel: int = 1

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run every job, whatever becomes of the others."""
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(self.runner, jobs))


@dataclass(frozen=True)
class Ranks:
    """Jobs shared out over MPI ranks through files: a rank that dies costs its job only.

    ``directory`` is empty and seen by every rank; ``run`` returns every
    outcome on the first rank, and its own ones on the others.
    """

    runner: Runner
    world: World
    directory: Path

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Claim jobs one by one, run them, and on the first rank wait for the others'."""
        self.directory.mkdir(parents=True, exist_ok=True)
        mine = []
        with Heartbeat(self.directory / "alive", f"r{self.world.rank}"):
            for job in jobs:
                if self._claim(job):
                    outcome = self.runner(job)
                    self._note(outcome)
                    mine.append(outcome)
            return self._collect(jobs) if self.world.first else mine

    def _claim(self, job: Job) -> bool:
        try:
            descriptor = os.open(self.directory / f"{job.line}.claim", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        except FileExistsError:
            return False
        with open(descriptor, "w") as stream:
            stream.write(f"r{self.world.rank}")
        return True

    def _note(self, outcome: Outcome) -> None:
        with replacing(self.directory / f"{outcome.line}.json") as stream:
            json.dump(asdict(outcome), stream)

    def _collect(self, jobs: Sequence[Job]) -> list[Outcome]:
        watch = Watch(self.directory / "alive")
        found: dict[int, Outcome] = {}
        while len(found) < len(jobs):
            for job in jobs:
                if job.line not in found:
                    outcome = self._look(job, watch)
                    if outcome:
                        found[job.line] = outcome
            if len(found) < len(jobs):
                time.sleep(POLL)
        return [found[job.line] for job in jobs]

    def _look(self, job: Job, watch: Watch) -> Outcome | None:
        path = self.directory / f"{job.line}.json"
        try:
            return read_record(path, lambda record: decode(Outcome, record), "remove it and run the same command again")
        except FileNotFoundError:
            rank = (self.directory / f"{job.line}.claim").read_text()
        # An empty claim was made a moment ago: its rank has not written its name yet.
        if not rank or not watch.dead(rank) or path.exists():
            return None
        return Outcome(job.line, job.destination, FAILED, f"rank {rank[1:]} died; run the same command again")
