"""``find.arrays``: a tree's arrays beside its find.json, used without parsing.

Input and output: a ``FlatTree`` (docs/formats.md).
Invariant: the file names the find.json it was made from by SHA-256; a reader
that is told the digest refuses any other, and a file cut short or of another
format always.
"""

import json
import os
import sys
from array import array
from pathlib import Path

from lading.bounded import SMALL_BYTES, Members, parse_json
from lading.errors import Disagreement, UsageError
from lading.files import replacing
from lading.formats.tree import FlatTree

FORMAT = 1
MAGIC = b"lading arrays\n"
_COLUMNS = (("types", "b"), ("sizes", "q"), ("ends", "q"), ("offsets", "q"), ("mtimes", "q"))


def arrays_path(tree_path: Path | str) -> Path:
    """Return where a tree's arrays lie: ``find.json`` → ``find.arrays``."""
    path = Path(tree_path)
    return path.with_name(path.name.removesuffix(".zst").removesuffix(".json") + ".arrays")


def write_arrays(path: Path, tree: FlatTree, sha256: str) -> None:
    """Write the arrays of the find.json whose text has the digest ``sha256``."""
    head = {
        "format": FORMAT,
        "kind": "tree-arrays",
        "sha256": sha256,
        "order": sys.byteorder,
        "entries": len(tree),
        "names": len(tree.names),
        "mtime": tree.mtimes is not None,
    }
    with replacing(path, "wb", sweep=True) as stream:
        stream.write(MAGIC + json.dumps(head).encode("ascii") + b"\n")
        for name, _ in _COLUMNS:
            column = getattr(tree, name)
            if column is not None:
                stream.write(memoryview(column).cast("B"))
        stream.write(tree.names)


def read_arrays(path: Path, sha256: str | None = None) -> FlatTree:
    """Return the tree; ``sha256`` is the digest of the find.json it must belong to.

    Raises ``UsageError`` when the file is missing, damaged or of another
    format, ``Disagreement`` when it belongs to another find.json.
    """
    try:
        with path.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise UsageError(f"{path} does not begin as the arrays of a tree; run: rm find.json; make find.json")
            try:
                line = stream.readline(SMALL_BYTES)
                head = Members(parse_json(line))
                known = head.number("format") == FORMAT and head.text("order") == sys.byteorder
                belongs, timed = head.text("sha256"), head.flag("mtime")
                entries, room = head.number("entries", least=1), head.number("names")
            except ValueError as error:
                raise UsageError(f"{path} has a damaged head ({error}); run: rm find.json; make find.json") from error
            if not known:
                raise UsageError(f"{path} is of another format or kind of machine; run: rm find.json; make find.json")
            if sha256 is not None and belongs != sha256:
                raise Disagreement(f"{path} belongs to another find.json; remove it")
            # Before anything is made room for: a number is not worth more than the file behind it.
            wanted = entries * (1 + 8 * (4 if timed else 3)) + 8 + room
            behind = os.fstat(stream.fileno()).st_size - len(MAGIC) - len(line)
            if behind != wanted:
                what = "cut short" if behind < wanted else "too long"
                said = f"{path} is {what}: {behind:,} bytes follow its head, not {wanted:,}"
                raise UsageError(f"{said}; run: rm find.json; make find.json")
            columns: dict[str, array[int]] = {}
            for name, code in _COLUMNS:
                if name == "mtimes" and not timed:
                    continue
                column = columns[name] = array(code)
                try:
                    column.fromfile(stream, entries + (name == "offsets"))
                except (EOFError, ValueError) as error:
                    raise UsageError(f"{path} is cut short in {name!r}; run: rm find.json; make find.json") from error
            names = stream.read(room + 1)
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; run: rm find.json; make find.json find_flags=--arrays") from error
    if len(names) != room:
        what = "cut short in" if len(names) < room else "longer than"
        raise UsageError(f"{path} is {what} 'names'; run: rm find.json; make find.json")
    return FlatTree(
        columns["types"], columns["sizes"], columns["ends"], names, columns["offsets"], columns.get("mtimes")
    )
