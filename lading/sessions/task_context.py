"""What a task is given, and how it runs programs.

Input: a job, its place, the run's settings. Output: ``TaskContext``; programs run
with their output in the task's log.
Invariant: a program is an argument list, never a shell string; it dies with
this process and with a request to cancel; no secret is an argument.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lading.core.errors import LadingError
from lading.core.processes import set_parent_death_signal
from lading.sessions.job_model import Job, Modality
from lading.sessions.journal import JobState
from lading.sessions.state_paths import JobPaths

REPOSITORY = Path(__file__).resolve().parents[2]
# Seconds that a program gets to end by itself.
GRACE = 20.0
POLL = 0.05
# The fact of a task that is to be done again, for what it made is not what was sent.
OUTDATED = "outdated"
# A program that is started inside a rank must not take itself for one.
_LAUNCHER_SIGNS = ("PMI_", "PMIX_", "OMPI_", "MPI_", "HYDI_", "HYDRA_")


class Cancelled(LadingError):
    """Somebody asked for the job to stop."""


@dataclass(frozen=True)
class RunSettings:
    """What the command line says of how jobs run.

    endpoint     S3 endpoint, or None for AWS
    workers      transfer workers of one upload
    cores        processes of one compression
    list_zone    time zone of the machine on which the list was started, "" for this one
    site         the presets' site settings (mail, webhook, document database …)
    list_path    the job list, for messages and for other processes
    state_root   directory of all jobs' states
    """

    state_root: Path
    endpoint: str | None = None
    workers: int = 32
    cores: int = 1
    site: Mapping[str, Any] = field(default_factory=dict)
    list_zone: str = ""
    list_path: Path = Path("list.csv")


@dataclass(frozen=True)
class TaskContext:
    """One task (one part of a mapped task) of one job; ``state`` is the job's when the task began."""

    job: Job
    place: JobPaths
    settings: RunSettings
    task: str
    part: str
    state: JobState
    stop: threading.Event
    say: Callable[[str], None]

    @property
    def options(self) -> dict[str, Any]:
        """The task's ``job_settings``."""
        return self.job.task(self.task, self.part).job_settings

    @property
    def modality(self) -> Modality:
        """The modality of a part that is one."""
        return next(entry for entry in self.job.modalities if entry.folder == self.part)

    @property
    def staging(self) -> Path:
        """The staging folder; ``LadingError`` when the job has none."""
        try:
            return Path(self.place.staging.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise LadingError(
                f"{self.job.prefix} has no staging folder; run with create_staging_folder not skipped"
            ) from error

    @property
    def repeated(self) -> bool:
        """True when an earlier process started this task and left no end of it."""
        return self.state.task(self.task, self.part).attempts > 0

    def check_cancelled(self) -> None:
        """Raise ``Cancelled`` when the job is to stop."""
        if self.stop.is_set() or self.place.cancel.exists():
            raise Cancelled(f"{self.job.prefix} was cancelled")

    def run_program(
        self,
        command: Sequence[str],
        *,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        accept: Sequence[int] = (0,),
    ) -> int:
        """Run a program with its output in the task's log; returns its exit code.

        Raises ``LadingError`` with the last line of its output for a code
        that is not in ``accept``, ``Cancelled`` when the job is to stop.
        """
        log = self.place.log(self.task, self.part)
        name = Path(command[0]).name if command[0] != sys.executable else " ".join(map(_short, command[1:3]))
        with open(log, "ab") as output:
            start = output.tell()
            process = subprocess.Popen(
                command,
                cwd=directory,
                env=dict(environment if environment is not None else program_environment()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=set_parent_death_signal(),
            )
            try:
                while process.poll() is None:
                    self.check_cancelled()
                    self.stop.wait(POLL)
            finally:
                _end(process)
        if process.returncode not in accept:
            self.check_cancelled()  # the signal that ended it may have been meant for the whole job
            raise LadingError(f"{name} ended with {process.returncode}: {_last_words(log, start)} (log: {log})")
        return process.returncode

    def run_python(
        self,
        *arguments: object,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        accept: Sequence[int] = (0,),
    ) -> int:
        """Run a script or module of this repository with this Python."""
        command = [sys.executable, *map(str, arguments)]
        return self.run_program(command, directory=directory, environment=environment, accept=accept)


def _short(argument: str) -> str:
    return Path(argument).name if argument.startswith("/") else argument


def program_environment(**more: str) -> dict[str, str]:
    """Return this process's environment, without what tells a program that it is an MPI rank."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_LAUNCHER_SIGNS)}
    kept = {name: value for name, value in kept.items() if name not in ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")}
    return {**kept, "PYTHONPATH": str(REPOSITORY), **more}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Stop a program and its children: ask, wait, insist."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + GRACE
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _last_words(log: Path, start: int) -> str:
    """Return the last error line of a log from ``start``, or its last line."""
    with open(log, "rb") as stream:
        stream.seek(start)
        lines = [line.decode("utf-8", "replace").strip() for line in deque(stream, maxlen=200)]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    # The last word of pydantic is an address, not what is wrong.
    told = (line for line in reversed(lines) if line and not line.startswith("For further information visit"))
    return "; ".join(errors[-3:]) if errors else next(told, "no output")
