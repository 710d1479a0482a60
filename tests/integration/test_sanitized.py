"""The compiled modules with sanitizers in them: the same tests give no report, and fuzzers find nothing."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import sanitizing
from tests.conftest import REPOSITORY
from tests.fuzz.__main__ import build, run
from tests.fuzz.targets import TARGETS
from tests.sanitizing import ADDRESS, FUZZ, THREAD, Kind


@dataclass(frozen=True)
class Suite:
    """A module, how it is built, the tests that run it, and those of them that need more than it."""

    module: str
    kind: Kind
    tests: tuple[str, ...]
    chosen: str = ""


SUITES = (
    Suite(
        "lading.crawl._walk",
        ADDRESS,
        (
            "tests/unit/crawl/test_walker.py",
            "tests/unit/crawl/test_from_list.py",
            "tests/unit/crawl/test_since.py",
            "tests/integration/test_find.py::test_ranks_lend_directories",
        ),
        "not python and not deeper and not rate_cap and not meta_beside and not parquet",
    ),
    Suite(
        "lading.crawl._walk",
        THREAD,
        (
            "tests/unit/crawl/test_walker.py",
            "tests/unit/crawl/test_since.py",
            "tests/integration/test_find.py::test_ranks_lend_directories",
        ),
        "not python and not deeper and not rate_cap and not meta_beside",
    ),
    Suite("lading.tree._treefile", ADDRESS, ("tests/unit/tree/test_json_reader.py",)),
    Suite(
        "lading.checksums._digest",
        ADDRESS,
        ("tests/unit/checksums/test_digest.py", "tests/unit/core/test_opening.py"),
        "not python and not openat2_the",
    ),
    Suite("lading.compress.imaging._mean", ADDRESS, ("tests/unit/compress/test_pyramid.py",), "mean or half or level"),
)


def name_of(suite: Suite) -> str:
    return f"{suite.module.rpartition('.')[2]}-{'threads' if suite.kind is THREAD else 'memory'}"


@pytest.mark.long
@pytest.mark.parametrize("suite", SUITES, ids=name_of)
def test_no_report(tmp_path: Path, suite: Suite) -> None:
    environment = sanitizing.environment(suite.kind, tmp_path)
    # A copy of what the tests need, so that the checkout keeps its own build.
    library = sanitizing.library_of(suite.module)
    ignored = shutil.ignore_patterns(Path(library).name, "__pycache__")
    for part in ("lading", "jobs", "tests", "demo", "benchmarks"):
        shutil.copytree(REPOSITORY / part, tmp_path / part, ignore=ignored)
    for path in [*REPOSITORY.glob("*.py"), REPOSITORY / "pyproject.toml"]:
        shutil.copy(path, tmp_path)
    sanitizing.build(suite.module, suite.kind, tmp_path / library)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not long"]
    result = subprocess.run(
        [*command, "-k", suite.chosen, *suite.tests],
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


# The digests' vectors take the compiler ten seconds with sanitizers: they have no short run.
SHORT = [(name, 2) for name in TARGETS if name != "digest"]


@pytest.mark.parametrize(
    ("name", "seconds"), [*SHORT, *(pytest.param(name, 60, marks=pytest.mark.long) for name in TARGETS)]
)
def test_fuzzing_finds_nothing(tmp_path: Path, name: str, seconds: int) -> None:
    sanitizing.find_runtime(FUZZ)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    found = run(name, build(name, tmp_path), corpus, seconds)
    assert not found.finding, found.finding
    assert found.executions > 20  # it ran; how often in its time depends on the machine's load
