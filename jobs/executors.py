"""Who does the jobs of a list: this process, a Slurm array, or the ranks of an MPI allocation.

Input: jobs and settings. Output: one ``Outcome`` per job, in the list's order.
Invariant: every executor runs the same ``run_job``; what a scheduler or a
launcher reports is at most a hint: the journals say what is done.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from jobs.journal import CANCELLED, DONE, FAILED, read_state
from jobs.model import Job
from jobs.outcome import Outcome
from jobs.places import place_of
from lading.cluster.alive import Heartbeat, Watch
from lading.cluster.mpi import World
from lading.cluster.slurm import ENDED, cancel_waiting, job_states, submit
from lading.errors import LadingError, UsageError
from lading.files import replacing

Runner = Callable[[Job], Outcome]
POLL = 1.0
# A job whose dependency failed ends instead of waiting for ever.
NEVER = "--kill-on-invalid-dep=yes"


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
                time.sleep(POLL / 4)
        return [found[job.line] for job in jobs]

    def _look(self, job: Job, watch: Watch) -> Outcome | None:
        path = self.directory / f"{job.line}.json"
        try:
            return Outcome(**json.loads(path.read_bytes()))
        except FileNotFoundError:
            rank = (self.directory / f"{job.line}.claim").read_text()
        # An empty claim was made a moment ago: its rank has not written its name yet.
        if not rank or not watch.dead(rank) or path.exists():
            return None
        return Outcome(job.line, job.destination, FAILED, f"rank {rank[1:]} died; run the same command again")


@dataclass(frozen=True)
class Slurm:
    """Jobs as a Slurm array, one element a row; what has other resources is another array.

    script       slurm/jobs.sbatch
    directory    of this submission: the rows of each array, and the elements' output
    environment  for the script (no secret): list, flags and state root
    flags_of     sbatch flags of a job (from its tasks' image_resources)
    transfer     sbatch flags of a second array that does upload and what follows, after the
                 first one's element of the same row succeeded; empty for one array
    then         a script that is submitted with ``afterok`` of everything
    wait         return when the jobs ended; else at once
    """

    script: Path
    directory: Path
    environment: Mapping[str, str]
    flags_of: Callable[[Job], Sequence[str]]
    state_root: Path
    stop: threading.Event
    at_once: int = 0
    transfer: Sequence[str] = ()
    then: str = ""
    wait: bool = True

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Submit, note each job as queued, wait, and read what became of each."""
        self.directory.mkdir(parents=True, exist_ok=True)
        groups: dict[tuple[str, ...], list[Job]] = {}
        for job in jobs:
            groups.setdefault(tuple(self.flags_of(job)), []).append(job)
        arrays = [self._submit(number, flags, group) for number, (flags, group) in enumerate(sorted(groups.items()))]
        elements = {line: element for array in arrays for line, element in array.items()}
        if self.then:
            # The last array of a row is the one that finishes it.
            ids = sorted({element.split("_")[0] for element in elements.values()})
            after = submit(self.then, flags=[f"--dependency=afterok:{':'.join(ids)}", NEVER])
            print(f"submitted {self.then} as job {after}, after all rows succeeded", flush=True)
        if not self.wait:
            return [Outcome(job.line, job.destination, "queued", f"job {elements[job.line]}") for job in jobs]
        self._wait(elements, jobs)
        states = job_states(sorted({element.split("_")[0] for element in elements.values()}))
        return [self._outcome(job, elements[job.line], states) for job in jobs]

    def _submit(self, number: int, flags: Sequence[str], group: Sequence[Job]) -> dict[int, str]:
        """Submit one array (two with ``transfer``); returns line → element that finishes it."""
        rows = self.directory / f"rows.{number}"
        with replacing(rows) as stream:
            stream.writelines(f"{job.line}\n" for job in group)
        limit = f"%{self.at_once}" if self.at_once else ""
        common = [
            f"--array=0-{len(group) - 1}{limit}",
            f"--output={self.directory}/%A_%a.out",
            "--job-name=lading-jobs",
        ]
        first = self._sbatch([*common, *flags], rows, until="check_metadata_files" if self.transfer else "")
        last = first
        if self.transfer:
            last = self._sbatch([*common, *self.transfer, f"--dependency=aftercorr:{first}", NEVER], rows)
        elements = {job.line: f"{last}_{index}" for index, job in enumerate(group)}
        print(f"submitted {len(group)} jobs as array {first}" + (f", then {last}" if last != first else ""), flush=True)
        record = {"submission": str(self.directory), "list": self.environment["LADING_LIST"]}
        for job in group:
            place = place_of(self.state_root, job.s3_bucket, job.prefix, dry_run=job.dry_run).create()
            with replacing(place.queued) as stream:
                json.dump({**record, "element": elements[job.line]}, stream)
        return elements

    def _sbatch(self, flags: Sequence[str], rows: Path, until: str = "") -> str:
        # Values travel by the environment: names with commas would break --export=NAME=VALUE.
        values = {
            **self.environment,
            "LADING_SUBMISSION": str(self.directory),
            "LADING_ROWS": str(rows),
            "LADING_UNTIL": until,
        }
        before = {name: os.environ.get(name) for name in values}
        os.environ.update(values)
        try:
            return submit(str(self.script), flags=["--export=ALL", *flags])
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})

    def _wait(self, elements: Mapping[int, str], jobs: Sequence[Job]) -> None:
        ids = sorted({element.split("_")[0] for element in elements.values()})
        pause = POLL / 4
        while not self.stop.is_set():
            states = job_states(ids)
            # A job that runs sees the wish by itself and ends its programs; one that waits has to be taken out.
            unwanted = [
                elements[job.line]
                for job in jobs
                if place_of(self.state_root, job.s3_bucket, job.prefix, dry_run=job.dry_run).cancel.exists()
            ]
            if unwanted:
                cancel_waiting(unwanted)
            # An element that nobody knows any more has ended; "123_[4-7]" stands for those that wait.
            if not any(state not in ENDED for state in states.values()):
                return
            self.stop.wait(pause)
            pause = min(pause * 1.5, 30.0)
        raise LadingError(f"stopped waiting; the jobs go on in Slurm: {', '.join(ids)} (scancel them to end them)")

    def _outcome(self, job: Job, element: str, states: Mapping[str, str]) -> Outcome:
        place = place_of(self.state_root, job.s3_bucket, job.prefix, dry_run=job.dry_run)
        state = read_state(place.journal)
        place.queued.unlink(missing_ok=True)
        if state.state in (DONE, CANCELLED) or (state.state == FAILED and state.ended):
            return Outcome(job.line, job.destination, state.state, state.message, state.current)
        if place.cancel.exists():
            place.cancel.unlink(missing_ok=True)
            return Outcome(job.line, job.destination, CANCELLED, "cancelled while it waited in Slurm's queue")
        said = states.get(element, "gone")
        where = f"; see {self.directory}/{element}.out"
        message = f"Slurm ended job {element} with {said} in {state.current or 'its first task'}{where}"
        return Outcome(job.line, job.destination, FAILED, message, state.current)


def refuse_queued(job: Job, state_root: Path) -> None:
    """Raise ``UsageError`` when another submission has the job in Slurm's queue or at work."""
    place = place_of(state_root, job.s3_bucket, job.prefix, dry_run=job.dry_run)
    try:
        record = json.loads(place.queued.read_bytes())
    except (FileNotFoundError, ValueError):
        return
    element = str(record["element"])
    if record["submission"] == os.environ.get("LADING_SUBMISSION"):
        return  # this very process is what was queued
    array, _, index = element.partition("_")
    for known, state in job_states([array]).items():
        waiting = known == array or "[" in known
        if state not in ENDED and (known == element or (waiting and _in_range(known, index))):
            raise UsageError(
                f"{job.destination} is already {state.lower()} as Slurm job {element}, from {record['list']}"
            )


def _in_range(known: str, index: str) -> bool:
    """Tell whether ``123_[2,4-7%3]`` covers an index; a bare job id covers every one."""
    if "[" not in known:
        return True
    for part in known.split("[", 1)[1].rstrip("]").split("%")[0].split(","):
        first, _, last = part.partition("-")
        if int(first) <= int(index) <= int(last or first):
            return True
    return False
