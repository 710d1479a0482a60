"""The batch scripts without a Slurm: what they hand to make and to the program, and when they try again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.servers.slurm import make_ready

# One rank that does one unit and fails, until three are done. It asks the program where its state is.
RANK = """
import sys
from pathlib import Path
from jobs.compress.command import read_settings
words = sys.argv[sys.argv.index("compress") + 1 :]
done = read_settings(words).state / "done"
done.mkdir(parents=True, exist_ok=True)
count = len(list(done.iterdir())) + 1
(done / f"{count}.json").touch()
sys.exit(count < 3)
"""


def run_script(name: str, *arguments: object, cwd: Path, **settings: object) -> "subprocess.CompletedProcess[str]":
    """Run a batch script as Slurm would run it in a job of one task."""
    values = {name: str(value) for name, value in settings.items()}
    return subprocess.run(
        ["bash", str(REPOSITORY / "slurm" / name), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "SLURM_JOB_ID": "1", "SLURM_NTASKS": "1", **values},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("dest", "flags", "state"),
    [
        ("out", (), "out.state"),
        ("out/", (), "out.state"),
        ("./sub/..//out//.", (), "out.state"),
        ("a b/out/", (), "a b/out.state"),
        ("$HOME/", (), "$HOME.state"),
        ("out", ("--state", "else where/"), "else where"),
        ("out/", ("--workers", "1", "--state=elsewhere"), "elsewhere"),
        ("out", ("--stat", "elsewhere"), "elsewhere"),
        ("s3://bucket/lab/", ("--state", "elsewhere"), "elsewhere"),
    ],
)
def test_passes_go_on_as_long_as_units_get_done(tmp_path: Path, dest: str, flags: tuple[str, ...], state: str) -> None:
    """The script counts where the program writes, however destination and state are spelled."""
    (tmp_path / "in").mkdir()
    (tmp_path / "rank.py").write_text(RANK)
    launcher = f"{sys.executable} {tmp_path}/rank.py"
    result = run_script(
        *("compress.sbatch", "in", dest, "generic", *flags),
        cwd=tmp_path,
        lading=REPOSITORY,
        lading_launcher=launcher,
        venv=make_ready(tmp_path / "venv"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    passes = [line.split(",")[0] for line in result.stdout.splitlines() if line.startswith("pass")]
    assert passes == [f"pass {number}: {number - 1} units done" for number in (1, 2, 3)]
    assert len(list((tmp_path / state / "done").iterdir())) == 3
