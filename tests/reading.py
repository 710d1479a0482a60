"""What a page of Markdown says: its sentences and its command blocks.

Input: the text of a page. Output: sentences as lists of words, and blocks of
commands with the reason why one is not run.
Invariant: code counts as one word, and no sentence goes over the end of a
paragraph, an item of a list, or a cell of a table.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^ *```[^\n]*$", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
SHELLS = ("sh", "bash", "console", "shell")
# A point ends a sentence when a blank and then no small letter follow.
_END = re.compile(r"(?<=[.!?])[)\"”*]*\s+(?=[^a-z\s])")
_ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|etc|vs|approx|ca|no)\.\s")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+\.)\s+")
_NOT_RUN = re.compile(r"<!--\s*not run: (.+?)\s*-->\s*$")


class Block(NamedTuple):
    """A block of commands; ``why_not`` is empty when it is to be run."""

    line: int
    commands: str
    why_not: str
    output: str


def _paragraphs(text: str, cells: bool) -> Iterator[str]:
    """Yield what a sentence cannot leave: paragraphs, items, and where asked for the cells of tables."""
    collected: list[str] = []
    for line in [*COMMENT.sub("", FENCE.sub("", text)).splitlines(), ""]:
        bare = line.strip()
        ends = not bare or bare.startswith(("#", "|", ">")) or _ITEM.match(line)
        if ends and collected:
            yield " ".join(collected)
            collected = []
        if bare.startswith("|") and cells:
            yield from (cell for cell in re.split(r"(?<!\\)\|", bare) if not re.fullmatch(r"[\s:-]*", cell))
        elif bare.startswith(("#", "|")):
            continue
        elif bare:
            collected.append(_ITEM.sub("", line).strip())


def sentences(text: str, *, cells: bool = True) -> Iterator[list[str]]:
    """Yield the sentences of a page as lists of words; those of tables only with ``cells``."""
    for paragraph in _paragraphs(text, cells):
        plain = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", paragraph)
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", plain)
        plain = re.sub(r"`[^`]+`", "Code", plain)
        plain = _ABBREVIATIONS.sub(r"\1 ", plain)
        for sentence in _END.split(plain):
            words = [word for word in sentence.split() if re.search(r"\w", word)]
            if words:
                yield words


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of commands of a page, each with the output that the page shows after it."""
    found = list(FENCE.finditer(text))
    for number, match in enumerate(found):
        if match[2].strip() not in SHELLS:
            continue
        before = text[: match.start()].rstrip("\n")
        marker = _NOT_RUN.search(before.splitlines()[-1]) if before else None
        output = ""
        if number + 1 < len(found) and found[number + 1][2].strip() == "text":
            after = found[number + 1]
            if not text[match.end() : after.start()].strip():
                output = after[3]
        commands = re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
        yield Block(text.count("\n", 0, match.start()) + 1, commands, marker[1] if marker else "", output)
