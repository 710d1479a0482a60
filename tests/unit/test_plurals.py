"""One function counts things in sentences, so that nobody reads "1 objects"."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.core.progress import counted

REPOSITORY = Path(__file__).resolve().parents[2]
# These are counted beside what ``counted`` is called with; rates ("files/s") and constants are left alone.
NOUNS = {"objects", "files", "directories", "entries", "links", "paths", "batches", "rows", "datasets", "releases"}
# A file that has to stand alone.
EXCEPTIONS = {"lading/export/check_download.py"}
# What only looks like a count: a verb, a stage's name, a range.
OTHERS = (
    "lading/mirror/split.py: {_named(parent)} links it",
    "lading/sessions/commands/run.py: {time.strftime('%H:%M:%S')} jobs",
    "lading/report/proof_age.py: {index * each + each - 1} days",
)
WORDS = "(?:(?:verified|finished|newer|source|more|other|checksum|separate|Zarr|local|different|planned) )?"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (counted(0, "object"), "0 objects"),
        (counted(1, "object"), "1 object"),
        (counted(1_200, "object"), "1,200 objects"),
        (counted(1, "entry", "entries"), "1 entry"),
        (counted(2, "entry was", "entries were"), "2 entries were"),
    ],
)
def test_counts_agree_with_their_nouns(found: str, said: str) -> None:
    assert found == said


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(REPOSITORY.glob("lading/**/*.py")):
        name = str(path.relative_to(REPOSITORY))
        if name not in EXCEPTIONS and "/testing/" not in name:
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def counted_nouns() -> set[str]:
    """Return the plural of each noun that is counted anywhere."""
    found = set(NOUNS)
    for _, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "counted":
                texts = [word.value for word in node.args[1:] if isinstance(word, ast.Constant)]
                if len(texts) == 1:
                    found.add(f"{str(texts[0]).split()[-1]}s")
    return found


def numbers_before(tree: ast.Module, nouns: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """Yield line and text of each value in a text that a plural follows; names in capitals are constants."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, text in zip(node.values, node.values[1:]):
            if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                continue
            said = ast.unparse(value.value)
            if nouns.match(str(text.value)) and not re.fullmatch(r"(self\._)?[A-Z_]+|self\._most_\w+", said):
                yield value.lineno, f"{{{said}}}{text.value}"


def test_no_message_counts_by_itself() -> None:
    plurals = counted_nouns() - {"bytes"}  # of sizes, which are hardly ever 1, and shown as numbers
    nouns = re.compile(rf" {WORDS}({'|'.join(sorted(plurals))})\b(?!/)")
    wrong = [
        f"{name}:{line}: {text}"
        for name, tree in trees()
        for line, text in numbers_before(tree, nouns)
        if not f"{name}: {text}".startswith(OTHERS)
    ]
    assert not wrong, "write counted(number, 'object') for these:\n" + "\n".join(wrong)


def test_no_page_counts_by_itself() -> None:
    nouns = "|".join(sorted(counted_nouns() - {"bytes"}))
    for path in sorted(REPOSITORY.glob("lading/*/templates/*.html")):
        found = re.findall(rf"\}}\}} {WORDS}(?:{nouns})\b", path.read_text(encoding="utf-8"))
        assert not found, f"{path}: {found}"
