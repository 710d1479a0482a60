"""The documents can be read: short sentences, and command blocks that run or say why not."""

import re

from tests.conftest import REPOSITORY
from tests.reading import blocks, sentences

MEAN, MOST = 20.0, 40
DOCUMENTS = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
# Pages whose command blocks tests/integration/test_tutorials.py runs.
RUN = ("docs/start/release.md", "docs/start/sessions.md", "docs/start/mirror.md", "docs/howto/give-away.md")


def test_no_sentence_is_too_long() -> None:
    """And their mean is short, on each page that has more than a few."""
    long, heavy = [], []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        long += [f"{path.name}: {' '.join(words)}" for words in sentences(text) if len(words) > MOST]
        prose = [len(words) for words in sentences(text, cells=False)]
        if len(prose) >= 5 and sum(prose) / len(prose) > MEAN:
            heavy.append(f"{path.name}: {sum(prose) / len(prose):.1f} words a sentence")
    assert not long
    assert not heavy


def test_sentences_are_told_apart() -> None:
    text = (
        "One two. Three `a b c` four!\n\n- item one\n- item two. And [three](x.md)\n\n"
        "```sh\nno words\n```\n| a | b c |\n|---|---|\n"
    )
    assert [len(words) for words in sentences(text)] == [2, 3, 2, 2, 2, 1, 2]
    assert [len(words) for words in sentences(text, cells=False)] == [2, 3, 2, 2, 2]


def test_each_command_block_runs_or_says_why_not() -> None:
    silent = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        name = str(path.relative_to(REPOSITORY))
        silent += [f"{name}:{block.line}" for block in blocks(text) if not block.why_not and name not in RUN]
        # A block without a language could hold commands that nobody looks at.
        bare = re.findall(r"^ *```\n *(?:make|lading|python3?|sbatch|curl|datalad|git|pip) ", text, re.MULTILINE)
        assert not bare, name
    assert not silent


def test_a_block_of_another_language_holds_no_prompt() -> None:
    for path in DOCUMENTS:
        for language, body in re.findall(
            r"^```(\w*)\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        ):
            assert language or not body.lstrip().startswith("$ "), f"{path.name}: {body[:60]}"
