"""Runs one submitted job to its end, whatever becomes of the service.

Input: the job's directory with its ``job.json`` (of an earlier version:
``list.csv``). Output: ``outcome-<attempt>.json``,
written whole, and the run's log on stdout.
Invariant: at most one runner per directory, held by a lock that the kernel
drops with the process: who can take the lock knows that nobody runs. A runner
that was told to end (a machine going down) leaves no outcome but ``stopped``:
its job is not over.
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lading.coordination.kernel_lock import try_lock
from lading.core.atomic import atomic_write
from lading.core.command_line import run_main
from lading.core.errors import LockHeldError
from lading.core.exit_codes import INTERRUPTED

JOB, LIST = "job.json", "list.csv"
# Below the portal's home: the states of all jobs, one directory per destination.
STATE = "state"
LOG = "run.log"
LOCK = "runner.lock"
# Left by a runner that was told to end before its job was over.
STOPPED = "stopped"


@contextmanager
def hold(directory: Path) -> Iterator[IO[str]]:
    """Hold the directory's lock, our pid in it; ``LockHeldError`` when another runner does."""
    with open(directory / LOCK, "a+", encoding="ascii") as stream:
        # Whoever asks ``running`` holds the lock for a moment: not a runner, so try again.
        for wait in (0.01, 0.1, 0.5, 1.0, None):
            if try_lock(stream):
                break
            if wait is None:
                stream.seek(0)
                raise LockHeldError(f"{directory} already has a runner: process {stream.read(20).strip()}")
            time.sleep(wait)
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        yield stream


def running(directory: Path) -> bool:
    """Tell whether a runner holds the directory."""
    try:
        with open(directory / LOCK, "r+", encoding="ascii") as stream:
            return not try_lock(stream)
    except FileNotFoundError:
        return False


def outcome_path(directory: Path, attempt: int) -> Path:
    """Return where an attempt's outcome is written."""
    return directory / f"outcome-{attempt}.json"


def submission_name(job_id: str, attempt: int) -> str:
    """Return the name of an attempt's submission to Slurm."""
    return f"{job_id}-{attempt}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job in a directory: ``DIRECTORY ATTEMPT [FLAG…]``, flags for ``jobs run``."""
    directory, attempt, *flags = sys.argv[1:] if argv is None else argv
    home = Path(directory)
    with hold(home):
        if outcome_path(home, int(attempt)).exists():
            return 0
        from lading.sessions.commands.run import main as run_list

        # Under this name a later runner of the same attempt finds again what Slurm has.
        name = submission_name(home.name, int(attempt))
        path = home / JOB if (home / JOB).exists() else home / LIST
        code = run_main(run_list, [str(path), *flags, "--submission", name])
        if code == INTERRUPTED:
            (home / STOPPED).touch()
            return code
        with atomic_write(outcome_path(home, int(attempt))) as stream:
            json.dump({"exit": code}, stream)
    return code


if __name__ == "__main__":
    sys.exit(run_main(main))
