"""The entries of a listing, parsed at a tenth of the cost of botocore's parser.

Input: the answer to ListObjectsV2, before botocore parses it. Output: its ``Contents`` as botocore would give them,
with the fields that are used here alone; the rest of the answer is left to botocore.
Invariant: what is not as Amazon's documents show it is left to botocore as it came, which alone says what is wrong.
Entries that hold nothing but plain fields are cut by a regular expression of their fields, which is made of the first
of them; a page that has any other goes through expat.
"""

import functools
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any
from xml.parsers import expat

FIELDS = ("Key", "Size", "ETag", "LastModified", "StorageClass")
MOST_ELEMENTS = 32  # of an entry, which make an expression; Amazon has 9
_BEGIN, _END = b"<Contents>", b"</Contents>"
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")  # by XML; and CR, which it takes for a newline
_FLAT = re.compile(r"<Contents>(?:<([A-Za-z]+)>[^<]*</\1>)+</Contents>")
_NAME = re.compile(r"<([A-Za-z]+)>")


def take_contents(
    operation_model: Any, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    """Take the entries out of the body of a listing; a handler of botocore's event ``before-parse``."""
    body = response_dict.get("body")
    if (
        operation_model.name != "ListObjectsV2"
        or response_dict.get("status_code") != 200
        or not isinstance(body, bytes)
    ):
        return
    begin, end = body.find(_BEGIN), body.rfind(_END) + len(_END)
    if begin < 0 or end <= begin or not _is_plain(body[:begin]):
        return
    try:
        found = parse_entries(body[begin:end])
    except (expat.ExpatError, ValueError):
        return
    response_dict["body"] = body[:begin] + body[end:]
    customized_response_dict["Contents"] = found


def _is_plain(head: bytes) -> bool:
    """Tell whether a document is of UTF-8 and without a type, which could give words a meaning of their own."""
    declared = head.partition(b"?>")[0].lower() if head.lstrip().startswith(b"<?xml") else b""
    return b"<!" not in head and (b"encoding" not in declared or b'encoding="utf-8"' in declared.replace(b"'", b'"'))


def parse_entries(text: bytes) -> list[dict[str, Any]]:
    """Return the fields of elements called Contents, one after the other; raises ``ValueError`` for anything else."""
    try:
        return _cut_flat(text.decode("utf-8"))
    except (ValueError, KeyError):
        return _parse_any(text)


def _cut_flat(text: str) -> list[dict[str, Any]]:
    """Return the same of entries whose elements hold plain text; ``ValueError`` or ``KeyError`` for all others."""
    text = text.replace("&quot;", '"')  # each ETag has two
    if "&" in text or "]]>" in text or not (text.isprintable() or not _FORBIDDEN.search(text)):
        raise ValueError("not plain")
    found: list[dict[str, Any]] = []
    place = 0
    names, cut = _shape(())
    while place < len(text):
        match = cut(text, place)
        if not match:
            flat = _FLAT.match(text, place)
            if not flat:
                raise ValueError(text[place : place + 100])
            names, cut = _shape(tuple(_NAME.findall(flat[0]))[1:])
            match = cut(text, place)
        entry = dict(zip(names, match.groups()))
        _finish(entry)
        found.append(entry)
        place = match.end()
    return found


@functools.lru_cache(100)
def _shape(elements: tuple[str, ...]) -> tuple[tuple[str, ...], Callable[..., Any]]:
    """Return the fields that are wanted of an entry with these elements, and what cuts such an entry at a place."""
    names = tuple(name for name in elements if name in FIELDS)
    if len(set(names)) < len(names) or len(elements) > MOST_ELEMENTS:
        raise ValueError(f"twice, or too many: {names}")
    inner = (f"<{name}>([^<]*)</{name}>" if name in FIELDS else f"<{name}>[^<]*</{name}>" for name in elements)
    return names, re.compile(f"<Contents>{''.join(inner)}</Contents>[ \\t\\n]*").match


def _finish(entry: dict[str, Any]) -> None:
    """Make values of the texts of an entry; ``KeyError`` and ``ValueError`` when it has not what each entry has."""
    moment = entry["LastModified"]
    if not moment.endswith("Z"):
        raise ValueError(moment)
    entry["Size"], entry["LastModified"] = int(entry["Size"]), datetime.fromisoformat(moment)


def _parse_any(text: bytes) -> list[dict[str, Any]]:
    """Return the same of entries of any XML; ``ValueError`` or ``ExpatError`` for what is none."""
    found: list[dict[str, Any]] = []
    entry: dict[str, Any] = {}
    words: list[str] = []
    depth = 0

    def begin(name: str, _: Any) -> None:
        nonlocal depth
        depth += 1
        words.clear()
        if depth == 2 and name != "Contents":
            raise ValueError(name)

    def end(name: str) -> None:
        nonlocal depth, entry
        if depth == 3 and name in FIELDS:
            if name in entry:
                raise ValueError(name)
            entry[name] = "".join(words)
        elif depth == 2:
            _finish(entry)
            found.append(entry)
            entry = {}
        depth -= 1

    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = begin, end, words.append
    try:
        parser.Parse(b"<r>" + text + b"</r>", True)
    except KeyError as error:
        raise ValueError("an entry has no Key, Size or LastModified") from error
    return found
