"""Tests of one group run in one worker: else each of them starts a Ceph gateway or a Slurm of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(6))
def test_in_a_group(number):
    pass
"""


def test_a_group_stays_in_one_worker(tmp_path: Path) -> None:
    """The groups of pytest-xdist hang on an attribute of pytest that is not public."""
    (tmp_path / "test_them.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout
    workers = re.findall(r"\[(gw\d)\].* PASSED test_them.py", done.stdout)
    assert len(workers) == 6, done.stdout
    assert len(set(workers)) == 1, done.stdout
