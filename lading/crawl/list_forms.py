r"""In which forms a file system's own inventory comes, as a program for the readers of lists.

Input: the form's name, a format as ``find -printf`` takes it, or the first
bytes of a list. Output: ``ListForm``: fields, separators, escapes.
Invariant: a form that lacks what a tree needs (type, size, path) is refused
before a line is read.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lading.core.errors import UsageError

# What a field holds; listing.h has the same numbers.
(SKIPPED, TYPE_LETTER, TYPE_WORD, TYPE_OCTAL, SIZE, TIME, TIME_NS, PATH, PARENT, NAME) = range(10)
PRINTED, POLICY, COMMAS = range(3)
NO_ESCAPES, BACKSLASHES, PERCENTS = range(3)
MOST_FIELDS = 64
DEFAULT = r"%y %s %T@ %p\n"
NAMES = ("gpfs", "gpfs-percent", "lester", "csv", "parquet")
_TYPES = (TYPE_LETTER, TYPE_WORD, TYPE_OCTAL)
_DIRECTIVES = {"y": TYPE_LETTER, "M": TYPE_LETTER, "s": SIZE, "T@": TIME, "p": PATH, "P": PATH}
_IGNORED = re.compile(r"%(?:[ACBT][@A-Za-z]|L?[abcdDFgGhHikmnSuUtLo])")
_BACKSLASHES = {"n": b"\n", "0": b"\0", "t": b"\t", "\\": b"\\", "r": b"\r"}
_COLUMNS = {
    PATH: ("path", "full_path", "fullpath"),
    PARENT: ("parent_path", "parent", "directory"),
    NAME: ("name", "fn", "filename", "file_name"),
    TYPE_WORD: ("type", "element_type", "file_type"),
    SIZE: ("size", "logical_size", "bytes"),
    TIME_NS: ("mtime_ns",),
}


@dataclass(frozen=True)
class ListForm:
    """How a list is read.

    fields    (role, text behind it) of each field, in order
    end       the byte that ends a record
    escapes   what stands for a character of the path: ``\\n`` and ``\\\\``, or ``%41``
    comments  whether lines with ``#`` are none, and the last one says that the list is complete
    below     the paths are relative to the root, as ``%P`` prints them
    """

    name: str
    kind: int
    fields: tuple[tuple[int, bytes], ...]
    end: int = 10
    escapes: int = NO_ESCAPES
    comments: bool = False
    below: bool = False

    @property
    def has_times(self) -> bool:
        """Whether it has mtimes in nanoseconds."""
        return any(role in (TIME, TIME_NS) for role, _ in self.fields)

    @property
    def program(self) -> bytes:
        """The fields for the compiled reader."""
        return b"".join(bytes([role, len(text)]) + text for role, text in self.fields)


def parse_form(text: str) -> ListForm:
    """Return the form of a name or of a format of ``find -printf``; ``csv`` has no columns yet (``with_columns``)."""
    if text in ("gpfs", "gpfs-percent"):
        fields = ((TYPE_LETTER, b""), (SIZE, b""), (PATH, b""))
        return ListForm(text, POLICY, fields, escapes=BACKSLASHES if text == "gpfs" else PERCENTS)
    if text == "lester":
        # atime|ctime|mtime|uid|gid|mode|size|inode|objects|path
        roles = (SKIPPED,) * 5 + (TYPE_OCTAL, SIZE, SKIPPED, SKIPPED)
        return ListForm(text, PRINTED, (*((role, b"|") for role in roles), (PATH, b"")), comments=True)
    if text == "csv":
        return ListForm(text, COMMAS, ())
    if text == "parquet":
        return ListForm(text, PRINTED, ((TYPE_WORD, b"\1"), (SIZE, b"\1"), (TIME_NS, b"\1"), (PATH, b"")), end=0)
    if "%" not in text:
        raise UsageError(f"--from-format {text!r} is neither {', '.join(NAMES)} nor a format of find -printf")
    return _parse_printf(text)


def _parse_printf(text: str) -> ListForm:
    fault = f"--from-format {text!r}"
    fields: list[tuple[int, bytes]] = []
    names: list[str] = []
    at = 0
    while at < len(text):
        if text[at] == "%":
            name = next((n for n in ("T@", "y", "M", "s", "p", "P") if text.startswith(n, at + 1)), "")
            ignored = _IGNORED.match(text, at)
            if not name and not ignored:
                raise UsageError(f"{fault}: {text[at : at + 3]!r} cannot be read; use %y %s %T@ and %p or %P")
            if fields and not fields[-1][1]:
                raise UsageError(f"{fault}: two fields have nothing between them")
            fields.append((_DIRECTIVES[name] if name else SKIPPED, b""))
            names.append(name)
            at += 1 + len(name) if name else ignored.end() - at  # type: ignore[union-attr]
            continue
        if text[at] == "\\":
            character = _BACKSLASHES.get(text[at + 1 : at + 2])
            if character is None:
                raise UsageError(f"{fault}: {text[at : at + 2]!r} is not \\n, \\0, \\t or \\\\")
            at += 2
        else:
            character = text[at].encode("utf-8", "surrogateescape")
            at += 1
        if not fields:
            raise UsageError(f"{fault}: it must begin with a field")
        fields[-1] = (fields[-1][0], fields[-1][1] + character)
    role, end = fields[-1]
    if role != PATH or end not in (b"\n", b"\0"):
        raise UsageError(f"{fault}: it must end with %p or %P and \\0 (or \\n, if no name holds a newline)")
    fields[-1] = (role, b"")
    return _complete(ListForm(text, PRINTED, tuple(fields), end=end[0], below="P" in names))


def _complete(form: ListForm) -> ListForm:
    roles = [role for role, _ in form.fields]
    known = [role for role in roles if role != SKIPPED]
    if len(known) != len(set(known)) or len(form.fields) > MOST_FIELDS:
        raise UsageError(f"--from-format {form.name!r}: a field is there twice, or there are more than {MOST_FIELDS}")
    lacking = []
    if not any(role in _TYPES for role in roles):
        lacking.append("the type")
    if SIZE not in roles:
        lacking.append("the size")
    if PATH not in roles and not {PARENT, NAME} <= set(roles):
        lacking.append("the path")
    if lacking:
        raise UsageError(f"the list has no field for {' and '.join(lacking)} of an entry (form {form.name!r})")
    return form


def with_columns(form: ListForm, names: Sequence[str]) -> ListForm:
    """Return a form of columns by their names, in any case."""
    roles = []
    plain = [name.strip().strip("\ufeff").lower() for name in names]
    whole = any(name in _COLUMNS[PATH] for name in plain) and not any(name in _COLUMNS[PARENT] for name in plain)
    for name in plain:
        role = next((role for role, known in _COLUMNS.items() if name in known), SKIPPED)
        if (role == NAME and whole) or (role == PATH and not whole):
            role = SKIPPED
        roles.append(SKIPPED if role != SKIPPED and role in roles else role)
    return _complete(replace(form, fields=tuple((role, b"") for role in roles)))


def without_times(form: ListForm) -> ListForm:
    """Return a form whose records have no mtime."""
    return replace(form, fields=tuple(field for field in form.fields if field[0] not in (TIME, TIME_NS)))


def split_header(head: bytes) -> tuple[list[str], int]:
    """Return the names of a csv's first line and its length with its end; ``UsageError`` when there is none."""
    line, newline, _ = head.partition(b"\n")
    if not newline:
        raise UsageError("the list has no line with the names of its columns")
    names = next(csv.reader([line.decode("utf-8-sig", "surrogateescape").rstrip("\r")]), [])
    return names, len(line) + 1


def guess_form(name: str, head: bytes) -> ListForm:
    """Return the form of a list by its name and first bytes; ``UsageError`` when they tell nothing."""
    if name.endswith((".parquet", ".pq")):
        return parse_form("parquet")
    if re.match(rb"\d+ +\d+ +\d+ .* -- /", head):
        return parse_form("gpfs")
    if head.startswith(b"#IDENT#|"):
        return parse_form("lester")
    if re.match(rb"[a-zA-Z] \d+ -?\d+\.\d+ [^\n\0]*\0", head):
        return parse_form(DEFAULT.replace(r"\n", r"\0"))
    if re.match(rb"[a-zA-Z] \d+ -?\d+\.\d+ ", head):
        return parse_form(DEFAULT)
    if name.endswith(".csv") or re.match(rb"[\w\"]+(,[\w\"]+)+\r?\n", head):
        return parse_form("csv")
    raise UsageError(f"the form of {name} cannot be told by its first line; say it with --from-format")
