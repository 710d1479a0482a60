"""The entries of a listing, parsed at a quarter of the cost of botocore's parser.

Input: the answer to ListObjectsV2, before botocore parses it. Output: its ``Contents`` as botocore would give them,
with the fields that are used here alone; the rest of the answer is left to botocore.
Invariant: what is not as Amazon's documents show it is left to botocore as it came, which alone says what is wrong.
"""

from datetime import datetime
from typing import Any
from xml.parsers import expat

FIELDS = ("Key", "Size", "ETag", "LastModified", "StorageClass")
_BEGIN, _END = b"<Contents>", b"</Contents>"


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
            moment = entry["LastModified"]
            if not moment.endswith("Z"):
                raise ValueError(moment)
            entry["Size"], entry["LastModified"] = int(entry["Size"]), datetime.fromisoformat(moment)
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
