"""``make setup``: what builds the environment again, what does not, many makes at once. The installer is a pretence."""

import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

FILES = (
    *("makefile", "pyproject.toml", "requirements.txt", "requirements-optional.txt", "tests/requirements.txt"),
    *("lading/environment.py", "lading/crawl/_walk.c", "lading/crawl/core.h"),
)
# Each notes what it is asked; the installer takes its time.
TOOL = """#!/bin/sh
echo "$(basename "$0") $*" >> "$NOTES"
case "$(basename "$0") $*" in
  "uv "*requirements.txt*) sleep 0.7; exit "$(cat "$NOTES.fails" 2>/dev/null || echo 0)" ;;
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

    def call(target: str = "setup", code: int = 0) -> str:
        result = subprocess.run(
            ["make", "-f", str(checkout / "makefile"), target, f"venv={venv}"],
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
    (tmp_path / "notes.fails").write_text("1")
    for name in ("lading/crawl/_walk.c", "lading/crawl/core.h", "pyproject.toml"):
        with (checkout / name).open("a") as stream:
            stream.write("\n")
        touch(checkout / name)
        setup()
        assert asked(tmp_path) == (0, 1), name
    with (checkout / "requirements.txt").open("a") as stream:
        stream.write("another\n")
    touch(checkout / "requirements.txt")
    assert "the packages did not install" in setup(code=2)
    assert asked(tmp_path) == (1, 0)
    # What failed is not taken for built.
    (tmp_path / "notes.fails").unlink()
    setup()
    assert asked(tmp_path) == (1, 1)


def test_the_tools_of_the_tests_have_a_stamp_of_their_own(setup, checkout: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    setup(f"{venv}/.ready-tests")
    assert asked(tmp_path) == (2, 1)
    touch(checkout / "tests/requirements.txt")
    setup(f"{venv}/.ready-tests")
    assert asked(tmp_path) == (0, 0)


def test_many_makes_at_once_build_once(setup, checkout: Path, tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(lambda _: setup(), range(6)))
    assert asked(tmp_path) == (1, 1)
    assert sum("another make builds here; waiting" in text for text in said) >= 1


def test_where_nothing_can_be_locked_it_builds_all_the_same(setup, tmp_path: Path) -> None:
    (tmp_path / "venv.lock").mkdir()
    assert "cannot be locked" in setup()
    assert asked(tmp_path) == (1, 1)
