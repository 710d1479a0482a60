"""Who does the jobs of a list: this process or the ranks of an MPI allocation.

Input: jobs and settings. Output: one ``JobResult`` per job, in the list's order.
Invariant: every executor runs the same ``run_job``; what a scheduler or a
launcher reports is at most a hint: the journals say what is done.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from lading.coordination.claims import Claims
from lading.coordination.heartbeat import Heartbeat, LivenessMonitor
from lading.core.atomic import atomic_write, read_record
from lading.core.bounded import decode
from lading.core.identity import this_process
from lading.parallel.mpi import World
from lading.sessions.job_model import Job
from lading.sessions.journal import FAILED
from lading.sessions.result import JobResult

Runner = Callable[[Job], JobResult]
POLL = 0.25


class Executor(Protocol):
    """Runs jobs and tells what became of each."""

    def run(self, jobs: Sequence[Job]) -> list[JobResult]:
        """Return one outcome per job, in order."""


@dataclass(frozen=True)
class Local:
    """Jobs in this process, ``parallel`` side by side; their heavy work is in programs of their own."""

    runner: Runner
    parallel: int = 1

    def run(self, jobs: Sequence[Job]) -> list[JobResult]:
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

    def run(self, jobs: Sequence[Job]) -> list[JobResult]:
        """Claim jobs one by one, run them, and on the first rank wait for the others'."""
        self.directory.mkdir(parents=True, exist_ok=True)
        mine = []
        process = this_process(f"r{self.world.rank}")
        with Heartbeat(self.directory / "alive", process) as heartbeat:
            claims = Claims(self.directory, process, LivenessMonitor(self.directory / "alive", heartbeat))
            for job in jobs:
                if claims.follow(_claim(job), None):
                    outcome = self.runner(job)
                    self._note(outcome)
                    mine.append(outcome)
            return self._collect(jobs, claims) if self.world.is_root else mine

    def _note(self, outcome: JobResult) -> None:
        with atomic_write(self.directory / f"{outcome.line}.json") as stream:
            json.dump(asdict(outcome), stream)

    def _collect(self, jobs: Sequence[Job], claims: Claims) -> list[JobResult]:
        found: dict[int, JobResult] = {}
        while len(found) < len(jobs):
            for job in jobs:
                if job.line not in found:
                    outcome = self._look(job, claims)
                    if outcome:
                        found[job.line] = outcome
            if len(found) < len(jobs):
                time.sleep(POLL)
        return [found[job.line] for job in jobs]

    def _look(self, job: Job, claims: Claims) -> JobResult | None:
        path = self.directory / f"{job.line}.json"
        if path.exists():
            return read_record(
                path, lambda record: decode(JobResult, record), "remove it and run the same command again"
            )
        link = claims.look(_claim(job))
        if link is None or claims.is_held(link) or path.exists():
            return None
        rank = link.process.writer.removeprefix("r") or "?"
        return JobResult(job.line, job.destination, FAILED, f"rank {rank} died; run the same command again")


def _claim(job: Job) -> str:
    return f"{job.line}.claim"
