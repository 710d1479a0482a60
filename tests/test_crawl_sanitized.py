"""The compiled walk under AddressSanitizer and UndefinedBehaviorSanitizer: the same tests, no report."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, need, need_program


@pytest.mark.long
def test_no_report(tmp_path: Path) -> None:
    need_program("gcc")
    runtime = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    need(None if all(map(os.path.isabs, runtime)) else "not installed: the sanitizers' libraries")
    # A copy of what the tests need, so that the checkout keeps its own build.
    for name in ("lading", "tests", "demo", "find.py", "pyproject.toml"):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("_walk*.so", "__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    settings = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    module = next(m for m in settings["tool"]["setuptools"]["ext-modules"] if m["name"] == "lading.crawl._walk")
    include = subprocess.run(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('include'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    build = [
        "gcc",
        "-g",
        "-O1",
        "-std=c11",
        "-pthread",
        "-shared",
        "-fPIC",
        "-DPy_LIMITED_API=0x030b0000",
        "-I",
        include,
    ]
    build += ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    subprocess.run([*build, *module["sources"], "-o", "lading/crawl/_walk.abi3.so"], cwd=tmp_path, check=True)
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "LD_PRELOAD": ":".join(runtime),
        # The interpreter keeps memory to its end, which is no leak of ours.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    chosen = "not python and not deeper and not rate_cap and not meta_beside and not long"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not long", "-k", chosen]
    result = subprocess.run(
        [*command, "tests/test_crawl_walk.py", "tests/test_find.py::test_ranks_lend_directories"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    assert "passed" in result.stdout
    assert "Sanitizer" not in result.stdout + result.stderr
