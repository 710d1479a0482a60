"""The compiled walk and digests under AddressSanitizer and UndefinedBehaviorSanitizer: the same tests, no report."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, need, need_program

# Module, the tests that run it, and those of them that need more than it.
SUITES = {
    "lading.crawl._walk": (
        ["tests/test_crawl_walk.py", "tests/test_find.py::test_ranks_lend_directories"],
        "not python and not deeper and not rate_cap and not meta_beside and not long",
    ),
    "lading.transfer._digest": (["tests/test_digest.py", "tests/test_opening.py"], "not python and not openat2_the"),
}


@pytest.mark.long
@pytest.mark.parametrize("name", list(SUITES))
def test_no_report(tmp_path: Path, name: str) -> None:
    need_program("gcc")
    runtime = [
        subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    need(None if all(map(os.path.isabs, runtime)) else "not installed: the sanitizers' libraries")
    # A copy of what the tests need, so that the checkout keeps its own build.
    library = name.replace(".", "/") + ".abi3.so"
    for part in ("lading", "tests", "demo", "find.py", "pyproject.toml"):
        source = REPOSITORY / part
        if source.is_dir():
            ignore = shutil.ignore_patterns(Path(library).name, "__pycache__")
            shutil.copytree(source, tmp_path / part, ignore=ignore)
        else:
            shutil.copy(source, tmp_path / part)
    settings = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    module = next(m for m in settings["tool"]["setuptools"]["ext-modules"] if m["name"] == name)
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
    build += [f"-D{macro}={value}" for macro, value in module["define-macros"] if macro != "Py_LIMITED_API"]
    build += [*module["sources"], "-o", library, *(f"-l{used}" for used in module.get("libraries", []))]
    subprocess.run(build, cwd=tmp_path, check=True)
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "LD_PRELOAD": ":".join(runtime),
        # The interpreter keeps memory to its end, which is no leak of ours.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    }
    suite, chosen = SUITES[name]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not long", "-k", chosen]
    result = subprocess.run(
        [*command, *suite],
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
