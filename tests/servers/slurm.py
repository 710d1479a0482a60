"""A real Slurm on this machine: munge, slurmctld and several slurmd, as root, on loopback."""

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lading.core.extras import PACKAGES

SCRIPTS = Path(__file__).resolve().parent.parent / "slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "setpriv")


@dataclass(frozen=True)
class Cluster:
    """A running cluster; its state lies in ``directory``."""

    directory: Path
    nodes: int

    def environment(self) -> dict[str, str]:
        """Return what its clients need."""
        return {"SLURM_CONF": str(self.directory / "slurm.conf")}

    def ask(self, *command: str) -> str:
        """Run one Slurm program and return what it prints."""
        result = subprocess.run(
            command, env={**os.environ, **self.environment()}, capture_output=True, text=True, timeout=60, check=True
        )
        return result.stdout.strip()

    def state(self, job: str) -> str:
        """Return a job's state."""
        shown = self.ask("scontrol", "show", "job", job)
        return shown.split("JobState=")[1].split()[0]

    def fact(self, job: str, name: str) -> str:
        """Return one field of ``scontrol show job``."""
        return self.ask("scontrol", "show", "job", job).split(f"{name}=")[1].split()[0]

    def wait(self, job: str, *states: str, timeout: float = 120) -> str:
        """Wait until a job is in one of the states and return that."""
        deadline = time.monotonic() + timeout
        while True:
            state = self.state(job)
            if state in states:
                return state
            assert time.monotonic() < deadline, f"job {job} is {state}, not {states}"
            time.sleep(0.2)


def missing() -> str | None:
    """Return why no cluster can start here, or None."""
    if os.getuid() != 0:
        return "the test Slurm starts its daemons as root"
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    lacking = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"not installed: {', '.join(lacking)}" if lacking else None


def free_ports(count: int) -> int:
    """Return the first of ``count`` consecutive free ports."""
    while True:
        first = random.randrange(20_000, 30_000)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first


@contextmanager
def serve(directory: Path, *, cores: int, nodes: int) -> Iterator[Cluster]:
    """Run a cluster for the block."""
    first = free_ports(nodes + 2)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SLURM_")},
        "PATH": os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]),
        "SLURMCTLD_PORT": str(first),
        "SLURMD_PORT": str(first),
        "HOME": str(directory),
    }
    directory.chmod(0o755)
    cluster = Cluster(directory, nodes)
    try:
        subprocess.run(
            ["bash", SCRIPTS / "slurm-up.sh", directory, str(cores), str(nodes)],
            env=environment,
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
        )
        yield cluster
    finally:
        subprocess.run(
            ["bash", SCRIPTS / "slurm-down.sh", directory, "purge"], env=environment, check=False, timeout=60
        )


def make_ready(venv: Path) -> Path:
    """Make an environment that counts as ready, so that no job builds one."""
    venv.mkdir()
    for stamp in (".ready", *(f".ready-{extra}" for extra in PACKAGES)):
        (venv / stamp).touch()
        os.utime(venv / stamp, (2**32, 2**32))
    return venv
