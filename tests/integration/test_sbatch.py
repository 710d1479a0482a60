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
from lading.cli.compress import read_settings
words = sys.argv[sys.argv.index("compress") + 1 :]
settings = read_settings(words)
print("from", settings.source, "to", settings.destination)
done = settings.state / "done"
done.mkdir(parents=True, exist_ok=True)
count = len(list(done.iterdir())) + 1
(done / f"{count}.json").touch()
sys.exit(3 if count < 3 else 0)
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
    """The state is where the program writes, however destination and state are spelled; 3 means that units are left."""
    (tmp_path / "$in").mkdir()
    (tmp_path / "rank.py").write_text(RANK)
    launcher = f"{sys.executable} {tmp_path}/rank.py"
    result = run_script(
        *("compress.sbatch", "$in", dest, "generic", *flags),
        cwd=tmp_path,
        lading=REPOSITORY,
        lading_launcher=launcher,
        venv=make_ready(tmp_path / "venv"),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    passes = [line.split(":")[0] for line in result.stdout.splitlines() if line.startswith("pass")]
    assert passes == ["pass 1", "pass 2", "pass 3"]
    place = dest if "://" in dest else os.path.abspath(tmp_path / dest)
    assert f"from {tmp_path}/$in to {place}\n" in result.stdout
    assert len(list((tmp_path / state / "done").iterdir())) == 3


@pytest.mark.parametrize(("code", "passes"), [(4, 1), (75, 1), (3, 5)])
def test_the_exit_code_decides_on_another_pass(tmp_path: Path, code: int, passes: int) -> None:
    """And it is the job's: what would end in the same way again is not tried again."""
    (tmp_path / "in").mkdir()
    (tmp_path / "end.sh").write_text(f"exit {code}\n")
    result = run_script(
        *("compress.sbatch", "in", "out", "generic"),
        cwd=tmp_path,
        lading=REPOSITORY,
        lading_launcher=f"sh {tmp_path}/end.sh",
        venv=make_ready(tmp_path / "venv"),
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert result.stdout.count("pass ") == passes


@pytest.mark.parametrize("code", [0, 75])
@pytest.mark.parametrize("script", ["find.sbatch", "upload.sbatch", "jobs.sbatch"])
def test_the_exit_code_is_the_jobs(tmp_path: Path, script: str, code: int) -> None:
    (tmp_path / "python").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "python").chmod(0o755)
    (tmp_path / "launch").write_text('shift 2; exec "$@"\n')  # -n 1
    result = run_script(
        *((script, "l.csv") if script == "jobs.sbatch" else (script, "here=1")),
        cwd=tmp_path,
        lading=REPOSITORY,
        lading_launcher=f"sh {tmp_path}/launch",
        python=tmp_path / "python",
        venv=make_ready(tmp_path / "venv"),
        root=tmp_path,
        bucket="s3://bucket",
    )
    assert result.returncode == code, result.stdout + result.stderr


def note_words(path: Path) -> Path:
    """Write a program that prints where its code comes from, and its arguments one a line."""
    path.write_text('#!/bin/sh\necho "$PYTHONPATH"\nprintf "%s\\n" "$@"\n')
    path.chmod(0o755)
    return path


def test_a_row_is_done_by_the_checkout_that_submitted_it(tmp_path: Path) -> None:
    """Whatever `lading` the user exports for the other scripts."""
    other = tmp_path / "other"
    (other / "slurm").mkdir(parents=True)
    (other / "slurm/env.sh").touch()
    (tmp_path / "rows").write_text("5\n7\n")
    (tmp_path / "arguments").write_text("--state=/s\n")
    result = run_script(
        "jobs.sbatch",
        cwd=tmp_path,
        lading=other,
        LADING=REPOSITORY,
        LADING_PYTHON=note_words(tmp_path / "python"),
        LADING_ROWS=tmp_path / "rows",
        LADING_ARGUMENTS=tmp_path / "arguments",
        LADING_LIST="/l.csv",
        SLURM_ARRAY_TASK_ID=1,
    )
    words = [
        str(REPOSITORY),
        *("-m", "lading", "jobs", "run", "/l.csv", "--executor", "local", "--row", "7", "--state=/s"),
    ]
    assert result.stdout.splitlines() == words, result.stderr


def test_a_list_and_its_flags_reach_the_program_as_they_are(tmp_path: Path) -> None:
    result = run_script(
        *("jobs.sbatch", "a $HOME/l.csv", "--state", "$x `id`"),
        cwd=tmp_path,
        lading=REPOSITORY,
        python=note_words(tmp_path / "python"),
        venv=make_ready(tmp_path / "venv"),
    )
    assert result.returncode == 0, result.stderr
    words = result.stdout.splitlines()
    assert words[:6] == [str(REPOSITORY), "-m", "lading", "jobs", "run", "a $HOME/l.csv"]
    assert words[-2:] == ["--state", "$x `id`"]
