"""What this process's Slurm allocation is, and what has become of submitted jobs.

Input: the environment that Slurm sets; ``squeue`` and ``sacct``. Output: facts.
Invariant: outside Slurm every fact is None and no Slurm program is run; one
call asks for all jobs at once.
"""

import os
import shutil
import subprocess
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from lading.core.errors import LadingError

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
# Else squeue cuts the indices of a waiting array off at 64 characters.
_WHOLE = {"SLURM_BITSTR_LEN": "0"}
# What Slurm's programs say of a job that is over; everything else is a fault of theirs.
_OVER = ("Invalid job id", "already completing or completed")


class Unanswered(LadingError):
    """Slurm's controller did not answer; what became of a job is not known. Ask again later."""


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


def submit(
    script: str,
    flags: Iterable[str] = (),
    *,
    environment: Mapping[str, str] | None = None,
    held: Collection[int] = (),
) -> str:
    """Submit a batch script and return the job id; ``LadingError`` with sbatch's sentence when it is refused.

    ``environment`` are values for the script beside those of this process,
    which ``--export=ALL`` hands on. sbatch keeps the file descriptors ``held``
    open: a lock on one stays as long as it is at work.
    """
    output = _ask(["sbatch", "--parsable", *flags, script], held=held, environment=environment)
    return output.strip().split(";")[0]


def find_job(comment: str) -> str | None:
    """Return the id of a job that was submitted with a comment, or None when Slurm knows of none."""
    for line in _ask(["squeue", "--noheader", "--states=all", "--format=%F %k"], environment=_WHOLE).splitlines():
        job, _, found = line.strip().partition(" ")
        if found == comment:
            return job
    return None


def cancel_jobs(jobs: Iterable[str]) -> None:
    """End jobs or array tasks: what waits leaves the queue, what runs is told to stop and then killed."""
    _ask(["scancel", *jobs], missing_ok=True)


def job_states(jobs: Iterable[str]) -> dict[str, str]:
    """Return job id → state (``PENDING``, ``RUNNING``, ``COMPLETED``…) for the jobs that Slurm still knows.

    Array tasks appear as ``id_index``. Asks squeue once, and sacct once for
    those that squeue has forgotten, where accounting is kept. ``Unanswered``
    when squeue is not told: a job is over only when Slurm says so.
    """
    wanted = list(dict.fromkeys(jobs))
    if not wanted:
        return {}
    states: dict[str, str] = {}
    output = _ask(
        ["squeue", "--noheader", "--states=all", "--format=%i %T", "--jobs", ",".join(wanted)],
        missing_ok=True,
        environment=_WHOLE,
    )
    for line in output.splitlines():
        job, _, state = line.strip().partition(" ")
        states[job] = state
    lost = [job for job in wanted if not any(known.split("_")[0] == job.split("_")[0] for known in states)]
    if lost and shutil.which("sacct"):
        command = ["sacct", "--noheader", "--allocations", "--parsable2", "--format=JobID,State", "--jobs"]
        try:
            output = _ask([*command, ",".join(lost)])
        except LadingError:
            output = ""  # no accounting here: what squeue has forgotten is over, how is not known
        for line in output.splitlines():
            job, _, state = line.partition("|")
            # "CANCELLED by 1000" carries who did it.
            states[job] = state.split(" ")[0]
    return states


def _ask(
    command: list[str],
    *,
    missing_ok: bool = False,
    held: Collection[int] = (),
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run one Slurm program with ``environment`` on top of ours; ``missing_ok`` forgives a job that is over."""
    try:
        result = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            pass_fds=tuple(held),
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError as error:
        raise LadingError(f"{command[0]} is not on PATH: this machine cannot submit to Slurm") from error
    except subprocess.TimeoutExpired as error:
        raise Unanswered(f"{command[0]} did not answer within {LIMIT:.0f} s; try again later") from error
    said = result.stderr.strip() or result.stdout.strip()
    if result.returncode and not (missing_ok and any(over in said for over in _OVER)):
        refusal = LadingError if command[0] == "sbatch" else Unanswered
        raise refusal(f"{command[0]} refused: {said}")
    return result.stdout
