"""The documents: links lead somewhere, commands exist, nothing names this machine."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

DOCUMENTS = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
IDS = [path.name for path in DOCUMENTS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if "://" not in target and not (path.parent / target.split("#")[0]).exists() and not target.startswith("#"):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_make_targets_exist(path: Path) -> None:
    makefile = (REPOSITORY / "makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z][a-z.-]*):", makefile, re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z][a-z.-]*)", text)) | set(
        re.findall(r"^make ([a-z][a-z.-]*)", text, re.MULTILINE)
    )
    assert named <= known, named - known


def test_settings_of_the_readme_exist() -> None:
    makefile = (REPOSITORY / "makefile").read_text(encoding="utf-8")
    table = (REPOSITORY / "README.md").read_text(encoding="utf-8").split("| setting |")[1].split("\n\n")[0]
    for row in table.splitlines()[2:]:
        for name in re.findall(r"`([a-z_]+)`", row.split("|")[1]):
            assert re.search(rf"^{name}\s*\?=", makefile, re.MULTILINE), name


def test_modules_that_documents_run_exist() -> None:
    for path in DOCUMENTS:
        for name in re.findall(r"python3? -m ([a-z_]+(?:\.[a-z_]+)*)", path.read_text(encoding="utf-8")):
            if name.split(".")[0] in ("lading", "jobs", "bench", "demo"):
                module = REPOSITORY / name.replace(".", "/")
                assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), f"{path.name}: {name}"


def test_shell_scripts_parse() -> None:
    scripts = [*REPOSITORY.glob("slurm/*.s*"), REPOSITORY / ".ci/run", *REPOSITORY.glob("tests/**/*.sh")]
    for path in scripts:
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0, path


def test_nothing_names_a_machine_or_a_registry() -> None:
    """Paths of one machine and hosts of package registries have no place in the repository."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    registry = re.compile(
        r"pypi\.org|pythonhosted|deb\.debian\.org|registry\.npmjs|/opt/pypi|/work/(?:main|dev|shared)"
    )
    named = []
    for name in listed.decode().split("\0"):
        path = REPOSITORY / name
        readable = name and path.is_file() and path.name != "test_documents.py" and path.suffix not in (".png", ".zst")
        if readable and registry.search(path.read_text(encoding="utf-8", errors="replace")):
            named.append(name)
    assert not named


@pytest.mark.parametrize("path", DOCUMENTS, ids=IDS)
def test_modules_that_are_named_exist(path: Path) -> None:
    """Paths in code spans that begin in the package; what a placeholder stands in is none."""
    named = re.findall(r"`((?:lading|tests|slurm)/[\w/.-]+)`", path.read_text(encoding="utf-8"))
    assert not [name for name in named if not (REPOSITORY / name).exists()]
