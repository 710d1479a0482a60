"""The documents: links lead somewhere, commands exist, nothing names this machine."""

import re
import subprocess
from pathlib import Path

from lading.core.extras import PACKAGES
from tests.conftest import REPOSITORY

TOP = [path for path in sorted(REPOSITORY.glob("*.md")) if path.name != "CHANGELOG.md"]
DOCUMENTS = [*TOP, *sorted((REPOSITORY / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```.*?^```[^\n]*$", re.MULTILINE | re.DOTALL)


def anchors_of(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as the site and code forges make them of plain words."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip()) for heading in plain}


def test_links_lead_somewhere() -> None:
    """To a file, and to a heading of it where a link names one."""
    broken = [f"{path.name}: {target}" for path in DOCUMENTS for target in broken_links(path)]
    assert not broken


def broken_links(path: Path) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text(encoding="utf-8"))):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        page = path.parent / name if name else path
        if not page.exists() or (anchor and anchor not in anchors_of(page)):
            broken.append(target)
    return broken


def test_make_targets_exist() -> None:
    makefile = (REPOSITORY / "makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z][a-z.-]*):", makefile, re.MULTILINE))
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    named = set(re.findall(r"`make ([a-z][a-z.-]*)", text)) | set(
        re.findall(r"^make ([a-z][a-z.-]*)", text, re.MULTILINE)
    )
    assert named <= known, named - known


def test_settings_that_documents_name_exist() -> None:
    """In tables of settings, whose first column is headed so."""
    makefile = (REPOSITORY / "makefile").read_text(encoding="utf-8")
    for path in DOCUMENTS:
        for table in re.findall(
            r"^\| setting \|.*\n\|[-|]+\n((?:\|.*\n)+)", path.read_text(encoding="utf-8"), re.MULTILINE
        ):
            for row in table.splitlines():
                for name in re.findall(r"`([a-z_]+)`", row.split("|")[1]):
                    assert re.search(rf"^(?:{name}\s*\?=|#: {name}: )", makefile, re.MULTILINE), f"{path.name}: {name}"


def test_every_extra_is_explained() -> None:
    text = (REPOSITORY / "docs" / "start" / "install.md").read_text(encoding="utf-8")
    table = text.split("| extra |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([a-z]+)`", re.sub(r"\|[^|]*\|$", "|", table, flags=re.MULTILINE))) >= set(PACKAGES)


def test_modules_that_documents_run_exist() -> None:
    for path in DOCUMENTS:
        for name in re.findall(r"python3? -m ([a-z_]+(?:\.[a-z_]+)*)", path.read_text(encoding="utf-8")):
            if name.split(".")[0] in ("lading", "jobs", "benchmarks", "demo"):
                module = REPOSITORY / name.replace(".", "/")
                assert module.with_suffix(".py").exists() or (module / "__main__.py").exists(), f"{path.name}: {name}"


def test_shell_scripts_parse() -> None:
    scripts = [*REPOSITORY.glob("slurm/*.s*"), REPOSITORY / ".ci/run", *REPOSITORY.glob("[lt]*/**/*.sh")]
    scripts += REPOSITORY.glob("deploy/**/*.sh")
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


def test_modules_that_are_named_exist() -> None:
    """Paths in code spans that begin in the package; what a placeholder stands in is none."""
    for path in DOCUMENTS:
        named = re.findall(r"`((?:lading|tests|slurm|deploy)/[\w/.-]+)`", path.read_text(encoding="utf-8"))
        assert not [name for name in named if not (REPOSITORY / name).exists()], path.name


def test_pages_that_the_code_names_exist() -> None:
    """Docstrings and messages lead to pages, which move."""
    listed = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    lacking = []
    for name in listed.stdout.splitlines():
        sample = name.startswith("tests/data/") or name == "tests/unit/test_words.py"
        if sample or Path(name).suffix not in {
            "",
            ".py",
            ".c",
            ".h",
            ".md",
            ".mk",
            ".sh",
            ".yml",
        }:
            continue
        text = (REPOSITORY / name).read_text(encoding="utf-8", errors="replace")
        pages = re.findall(r"(?<![\w/.])docs/[\w./-]+\.md\b", text)
        lacking += [f"{name}: {page}" for page in pages if not (REPOSITORY / page).exists()]
    assert not lacking
