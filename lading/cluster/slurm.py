"""What this process's Slurm allocation is, and what has become of submitted jobs.

Input: the environment that Slurm sets; ``squeue`` and ``sacct``. Output: facts.
Invariant: outside Slurm every fact is None and no Slurm program is run; one
call asks for all jobs at once.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lading.errors import LadingError

# Slurm's names for a job that will not run again (squeue(1), JOB STATE CODES).
ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)
LIMIT = 60.0


@dataclass(frozen=True)
class Allocation:
    """The job around this process.

    tasks, nodes  of the whole job; restarts  how often it was requeued
    step_tasks    tasks of this step (``srun``), None in the batch script
    """

    job: str
    nodes: int
    tasks: int
    restarts: int
    step_tasks: int | None


def find_allocation(environment: Mapping[str, str] | None = None) -> Allocation | None:
    """Return the allocation this process runs in, or None."""
    values = os.environ if environment is None else environment
    job = values.get("SLURM_JOB_ID")
    if not job:
        return None
    nodes = int(values.get("SLURM_JOB_NUM_NODES", "1"))
    step = values.get("SLURM_STEP_NUM_TASKS")
    return Allocation(
        job=job,
        nodes=nodes,
        tasks=int(values.get("SLURM_NTASKS", nodes)),
        restarts=int(values.get("SLURM_RESTART_COUNT", "0")),
        step_tasks=int(step) if step and values.get("SLURM_PROCID") is not None else None,
    )


def submit(script: str, arguments: Iterable[str] = (), flags: Iterable[str] = ()) -> str:
    """Submit a batch script and return the job id; ``LadingError`` with sbatch's sentence when it is refused."""
    output = _ask(["sbatch", "--parsable", *flags, script, *arguments])
    return output.strip().split(";")[0]


def cancel_waiting(jobs: Iterable[str]) -> None:
    """Take jobs or array tasks out of the queue; what runs already goes on."""
    _ask(["scancel", "--state=PENDING", *jobs], missing_ok=True)


def job_states(jobs: Iterable[str]) -> dict[str, str]:
    """Return job id → state (``PENDING``, ``RUNNING``, ``COMPLETED``…) for the jobs that Slurm still knows.

    Array tasks appear as ``id_index``. Asks squeue once, and sacct once for
    those that squeue has forgotten, where accounting is kept.
    """
    wanted = list(dict.fromkeys(jobs))
    if not wanted:
        return {}
    states: dict[str, str] = {}
    output = _ask(
        ["squeue", "--noheader", "--states=all", "--format=%i %T", "--jobs", ",".join(wanted)], missing_ok=True
    )
    for line in output.splitlines():
        job, _, state = line.strip().partition(" ")
        states[job] = state
    lost = [job for job in wanted if not any(known.split("_")[0] == job.split("_")[0] for known in states)]
    if lost and shutil.which("sacct"):
        output = _ask(
            ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State", "--jobs", ",".join(lost)],
            missing_ok=True,
        )
        for line in output.splitlines():
            job, _, state = line.partition("|")
            # "CANCELLED by 1000" carries who did it.
            states[job] = state.split(" ")[0]
    return states


def _ask(command: list[str], *, missing_ok: bool = False) -> str:
    """Run one Slurm program; ``missing_ok`` forgives a job that is no longer known."""
    try:
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT)
    except FileNotFoundError as error:
        raise LadingError(f"{command[0]} is not on PATH: this machine does not submit to Slurm") from error
    except subprocess.TimeoutExpired as error:
        raise LadingError(f"{command[0]} did not answer within {LIMIT:.0f} s; try again when Slurm answers") from error
    if result.returncode and not missing_ok:
        raise LadingError(f"{command[0]} refused: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout
