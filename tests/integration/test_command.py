"""The command ``lading``: exit codes that reach the caller, help, and what it says of what is not installed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lading.cli.main import COMMANDS
from lading.coordination.lease import Lease
from lading.core.exit_codes import MEANINGS
from lading.core.extras import PACKAGES
from tests.conftest import REPOSITORY

COMMAND = [sys.executable, "-m", "lading"]
# Refuses the packages named in the environment, as if they had never been installed.
HIDING = """
import importlib.machinery, os, sys
HIDDEN = os.environ["HIDDEN"].split()
real = importlib.machinery.PathFinder.find_spec
class Hide:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in HIDDEN else real(name, path, target)
sys.meta_path[:] = [Hide if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
from lading.cli.main import run
run()
"""


def lading(*arguments: object, cwd: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run the command."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def release(tmp_path: Path) -> Path:
    release = tmp_path / "data"
    release.mkdir()
    (release / "a").write_bytes(b"12345")
    return release


@pytest.fixture
def planned(release: Path, tmp_path: Path) -> Path:
    """The directory of a crawled and planned release."""
    assert lading("find", release, cwd=tmp_path).returncode == 0
    done = lading("batch", release, "--min-batch-size", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def check(done: "subprocess.CompletedProcess[str]", code: int, says: str) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_0_done(planned: Path) -> None:
    check(lading("estimate", planned / "data", cwd=planned), 0, "1 ")


def test_1_failed(planned: Path) -> None:
    """No server answers at the endpoint."""
    (planned / "runs").write_text("a file where the records go")
    check(lading("restore", "--to", "back", "--manifest", "data", cwd=planned), 1, "directory")


def test_2_usage_or_missing(tmp_path: Path) -> None:
    check(lading("find", cwd=tmp_path), 2, "lading find: the following arguments are required: ROOT")
    check(lading("frobnicate", cwd=tmp_path), 2, "not a command of lading; one of: find, batch")
    check(lading(cwd=tmp_path), 2, "lading needs a command")
    check(lading("upload", tmp_path, "--bucket", "s3://bucket", cwd=tmp_path), 2, "batch.json")


def test_3_some_failed(tmp_path: Path, release: Path) -> None:
    """A tree that lacks something: its meta file says so each time."""
    assert lading("find", release, cwd=tmp_path).returncode == 0
    meta = json.loads((tmp_path / "find.meta.json").read_text())
    meta["unreadable"] = [{"path": "closed", "errno": 13, "message": "Permission denied"}]
    (tmp_path / "find.meta.json").write_text(json.dumps(meta))
    check(lading("find", release, "--check", cwd=tmp_path), 3, "could not read closed: Permission denied")


def test_4_disagree(planned: Path) -> None:
    (planned / "find.json").write_text('["data",0,6,["a",1,6]]\n')
    check(lading("batch", planned / "data", cwd=planned), 4, "it was edited")


def test_75_locked(planned: Path, s3, bucket: str) -> None:
    s3.make_bucket(bucket)
    (planned / "journal").mkdir()
    to = ("--bucket", f"s3://{bucket}", "--endpoint-url", s3.endpoint)
    with Lease(planned / "journal", "somebody else"):
        check(lading("upload", planned / "data", *to, cwd=planned), 75, f"process {os.getpid()}")
    check(lading("upload", planned / "data", *to, cwd=planned), 0, "verified 1")
    check(lading("verify", planned / "data", *to, cwd=planned), 0, "1 of 1 object")


def test_130_interrupted(planned: Path) -> None:
    ours, theirs = os.openpty()
    with subprocess.Popen([*COMMAND, "status", "--watch", "1s"], cwd=planned, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        while b"batch" not in said:  # the table
            said += os.read(ours, 1024)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # EIO: the other end is closed
            while block := os.read(ours, 1024):
                said += block
        os.close(ours)
        assert process.wait(timeout=60) == 130, said
    assert b"interrupted" in said


@pytest.mark.parametrize("name", COMMANDS)
def test_help_ends_in_the_exit_codes(name: str, tmp_path: Path) -> None:
    done = lading(name, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: lading {name} ")
    listed = done.stdout.rpartition("exit codes:\n")[2].splitlines()
    codes = [int(line.split()[0]) for line in listed]
    assert {0, 1, 2, 130} <= set(codes) <= set(MEANINGS)
    assert [line.split(maxsplit=1)[1] for line in listed] == [MEANINGS[code] for code in codes]


def test_scripts_and_subcommands_take_the_same_flags(tmp_path: Path) -> None:
    for name in ("find", "batch", "upload"):
        script = subprocess.run(
            [sys.executable, str(REPOSITORY / f"{name}.py"), "--help"], capture_output=True, text=True, check=True
        ).stdout
        command = lading(name, "--help", cwd=tmp_path).stdout
        assert script.split("options:")[1] == command.split("options:")[1]
        assert script.startswith(f"usage: {name}.py ")


def test_version_names_the_commit(tmp_path: Path) -> None:
    done = lading("--version", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("lading ")
    assert "commit" in done.stdout


def without(packages: str, *arguments: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """Run the command where packages are not installed."""
    return subprocess.run(
        [sys.executable, "-c", HIDING, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "HIDDEN": packages},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("packages", "arguments", "extra"),
    [
        ("pydantic", ("jobs", "check", "list.csv"), "aind"),
        ("openpyxl", ("jobs", "run", "list.xlsx"), "aind"),
        ("fastapi", ("serve",), "portal"),
        ("pydantic", ("mirror", "update"), "mirror"),
        ("zarr", ("compress", "data", "out", "--kind", "ephys"), "ephys"),
        ("pcodec", ("compress", "data", "out", "--kind", "ephys"), "ephys"),
        ("tifffile", ("compress", "data", "out", "--kind", "imaging"), "imaging"),
        ("distributed", ("compress", "data", "out", "--kind", "generic", "--engine", "dask"), "dask"),
        ("mpi4py", ("compress", "data", "out", "--kind", "generic", "--engine", "mpi"), "mpi"),
        ("tifffile", ("demo",), "demo"),
        ("obstore", ("upload", "data", "--bucket", "s3://bucket", "--engine", "obstore"), "obstore"),
    ],
)
def test_a_missing_extra_is_one_sentence(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages, arguments, extra
) -> None:
    if extra == "mpi":
        monkeypatch.setenv("PMI_RANK", "0")  # as below mpiexec
    done = without(packages, *arguments, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"pip install 'lading[{extra}]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_package_of_every_installation_that_is_missing_is_one_sentence(tmp_path: Path) -> None:
    done = without("awscrt", "upload", "data", "--bucket", "s3://bucket", "--engine", "crt", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert (
        "--engine=crt needs the Python package awscrt, which is not installed: pip install 'boto3[crt]'" in done.stderr
    )
    assert len(done.stderr.splitlines()) == 1


def test_stages_need_no_extra(planned: Path) -> None:
    everything = " ".join({package for packages, _ in PACKAGES.values() for package in packages})
    for words in (("find", planned / "data"), ("batch", planned / "data"), ("status",), ("report",), ("doctor",)):
        done = without(everything, *words, cwd=planned)
        assert done.returncode == 0, (words, done.stderr)
    for name in ("upload", "verify", "restore"):
        assert without(everything, name, "--help", cwd=planned).returncode == 0


def test_the_doctor_names_what_is_missing_and_its_price(tmp_path: Path) -> None:
    done = without("zarr fastapi", "doctor", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    parts = {part["name"]: part for part in json.loads(done.stdout)["parts"]}
    assert {"lading", "Python", "lock", "s5cmd", "MPI", "ffmpeg", "git-annex", "Slurm", "[ephys]"} <= set(parts)
    assert not parts["[ephys]"]["there"]
    assert "lading[ephys]" in parts["[ephys]"]["text"]
    assert parts["[aind]"]["there"]
    done = without("botocore", "doctor", cwd=tmp_path)
    assert done.returncode == 1
    assert "missing: boto3" in done.stdout


def test_a_command_starts_fast(tmp_path: Path) -> None:
    """Nothing is loaded for the other commands."""
    code = (
        "import sys, lading.cli.main; print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'jobs', 'rich')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
