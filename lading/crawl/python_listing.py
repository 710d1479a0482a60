r"""Lists in Python, for machines without the compiled reader; it is also what that one is tested with.

Input: records of a ``ListForm``, in any order. Output: a record per
directory, as a walk leaves them, and what is wrong, by line.
Invariant: the same answers as listing.c.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lading.core.times import saturate
from lading.crawl import list_forms as forms
from lading.crawl.options import Options
from lading.crawl.python_walker import DirectoryRecord
from lading.tree.globs import compile_globs

MOST_FAULTS = 20
TEXT = 400
LONGEST_NAME = 4095
(TORN, FOREIGN, BAD_PATH, BAD_SIZE, BAD_TYPE, BAD_TIME, NO_DIRECTORY, TWICE, DOUBLES) = range(1, 10)
OTHER, DIRECTORY, REGULAR, LINK = -1, 0, 1, 2
_WORDS = {
    **dict.fromkeys((b"f", b"-", b"file", b"reg", b"regular", b"regular file"), REGULAR),
    **dict.fromkeys((b"d", b"dir", b"directory", b"folder"), DIRECTORY),
    **dict.fromkeys((b"l", b"link", b"lnk", b"symlink", b"symbolic link"), LINK),
    **dict.fromkeys((b"p", b"fifo", b"pipe", b"s", b"sock", b"socket", b"c", b"chr", b"b", b"blk"), OTHER),
    **dict.fromkeys((b"device", b"other"), OTHER),
}
_LETTERS = {
    b"f": REGULAR,
    b"-": REGULAR,
    b"d": DIRECTORY,
    b"l": LINK,
    b"p": OTHER,
    b"s": OTHER,
    b"c": OTHER,
    b"b": OTHER,
}
_FORMATS = {1: OTHER, 2: OTHER, 6: OTHER, 12: OTHER, 4: DIRECTORY, 8: REGULAR, 10: LINK}
_SECONDS = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]{1,18}))?")
_CELL = re.compile(rb'(?:"((?:[^"]|"")*+)"|([^",]*+))(?=,|\Z)', re.DOTALL)
_POLICY = re.compile(
    rb" *[0-9]{1,19} +[0-9]{1,19} +[0-9]{1,19} +(?!-- )([^ ]+) +(?!-- )([^ ]+)(?: .*?)?? -- (.*)", re.DOTALL
)
_MOST = (1 << 63) - 1


class ListFault(Exception):
    """A record is wrong: a code and the text that shows it."""

    def __init__(self, code: int, text: bytes) -> None:
        super().__init__(code)
        self.code, self.text = code, text


@dataclass(frozen=True, slots=True)
class ListedEntry:
    """One record: path below the root, type, size and mtime of a file."""

    path: bytes
    type: int
    size: int = 0
    mtime: int = 0


@dataclass(slots=True)
class _Directory:
    line: int
    listed: bool = False
    excluded: bool = False
    record: DirectoryRecord = field(default_factory=DirectoryRecord)


def parse_record(record: bytes, form: forms.ListForm, root: bytes | None, mtime: bool) -> ListedEntry:
    """Return the entry of a record; raises ``ListFault``."""
    fields = _split(record, form)
    role = next(role for role, _ in form.fields if role in (forms.TYPE_LETTER, forms.TYPE_WORD, forms.TYPE_OCTAL))
    kind = _parse_type(fields[role], role)
    path = _take_escapes(fields[forms.PATH], form.escapes)
    below = _strip_root(path, kind, root)
    if kind == DIRECTORY:
        return ListedEntry(below, kind)
    if kind != REGULAR:
        return ListedEntry(below, kind)
    size = fields[forms.SIZE]
    if not re.fullmatch(rb"[0-9]{1,19}", size) or int(size) > _MOST:
        raise ListFault(BAD_SIZE, size)
    return ListedEntry(below, kind, int(size), _parse_time(fields) if mtime else 0)


def _split(record: bytes, form: forms.ListForm) -> dict[int, bytes]:
    if form.kind == forms.POLICY:
        found = _POLICY.fullmatch(record)
        if not found:
            raise ListFault(TORN, record)
        return {forms.TYPE_LETTER: found[1], forms.SIZE: found[2], forms.PATH: found[3]}
    if form.kind == forms.COMMAS:
        return _split_commas(record, form)
    fields, rest = {}, record
    for role, separator in form.fields[:-1]:
        text, found_one, rest = rest.partition(separator)
        if not found_one:
            raise ListFault(TORN, record)
        fields[role] = text
    fields[form.fields[-1][0]] = rest
    return fields


def _split_commas(record: bytes, form: forms.ListForm) -> dict[int, bytes]:
    cells, at, line = [], -1, record.removesuffix(b"\r")
    while at < len(line):
        found = _CELL.match(line, at + 1)
        if not found:
            raise ListFault(TORN, record)
        cells.append(found[2] if found[1] is None else found[1].replace(b'""', b'"'))
        at = found.end()
    if len(cells) != len(form.fields):
        raise ListFault(TORN, record)
    fields = {role: cell for (role, _), cell in zip(form.fields, cells)}
    if forms.NAME in fields:
        above = fields.get(forms.PARENT, b"")
        above = above.rstrip(b"/") or above[:1]
        fields[forms.PATH] = above + (b"/" if above and not above.endswith(b"/") else b"") + fields[forms.NAME]
    return fields


def _parse_type(text: bytes, role: int) -> int:
    if role == forms.TYPE_WORD:
        kind = _WORDS.get(text.lower())
    elif role == forms.TYPE_LETTER:
        kind = _LETTERS.get(text[:1]) if len(text) == 1 or len(text) >= 10 else None
    else:
        kind = _FORMATS.get(int(text, 8) >> 12) if re.fullmatch(rb"[0-7]{1,6}", text) else None
    if kind is None:
        raise ListFault(BAD_TYPE, text)
    return kind


def _take_escapes(path: bytes, escapes: int) -> bytes:
    if escapes == forms.NO_ESCAPES:
        return path
    mark, whole = (rb"\\", rb"\\(.?)") if escapes == forms.BACKSLASHES else (b"%", b"%(.{0,2})")

    def replace(found: re.Match[bytes]) -> bytes:
        code = found[1]
        if mark == rb"\\":
            if code not in (b"n", b"\\"):
                raise ListFault(BAD_PATH, path)
            return b"\n" if code == b"n" else b"\\"
        if not re.fullmatch(rb"[0-9A-Fa-f]{2}", code):
            raise ListFault(BAD_PATH, path)
        return bytes([int(code, 16)])

    return re.sub(whole, replace, path, flags=re.DOTALL)


def _strip_root(whole: bytes, kind: int, root: bytes | None) -> bytes:
    path = whole[:-1] if kind == DIRECTORY and len(whole) > 1 and whole.endswith(b"/") else whole
    if root is None:
        path = b"" if path == b"." else path
        if path.startswith(b"/"):
            raise ListFault(FOREIGN, whole)
    else:
        if not path.startswith(root):
            raise ListFault(FOREIGN, whole)
        path = path[len(root) :]
        if path and not root.endswith(b"/"):
            if not path.startswith(b"/"):
                raise ListFault(FOREIGN, whole)
            path = path[1:]
            if not path:
                raise ListFault(BAD_PATH, whole)
    parts = path.split(b"/") if path else []
    if any(not part or part in (b".", b"..") or len(part) > LONGEST_NAME for part in parts) or b"\0" in path:
        raise ListFault(BAD_PATH, whole)
    if not path and kind != DIRECTORY:
        raise ListFault(BAD_PATH, whole)
    return path


def _parse_time(fields: dict[int, bytes]) -> int:
    text = fields.get(forms.TIME_NS)
    if text is not None:
        if not re.fullmatch(rb"-?[0-9]{1,19}", text) or abs(int(text)) > _MOST:
            raise ListFault(BAD_TIME, text)
        return int(text)
    text = fields.get(forms.TIME, b"")
    found = _SECONDS.fullmatch(text)
    if not found or int(found[2]) > _MOST:
        raise ListFault(BAD_TIME, text)
    seconds = -int(found[2]) if found[1] else int(found[2])
    return saturate(seconds * 10**9 + int((found[3] or b"").ljust(9, b"0")[:9]))


def records_of(data: bytes, form: forms.ListForm) -> Iterator[bytes]:
    """Yield the whole records of some bytes, without their end."""
    at = 0
    while True:
        stop = _end_of(data, at, form)
        if stop < 0:
            return
        yield data[at:stop]
        at = stop + 1


def _end_of(data: bytes, at: int, form: forms.ListForm) -> int:
    stop = data.find(bytes([form.end]), at)
    if form.kind != forms.COMMAS:
        return stop
    while stop >= 0 and data.count(b'"', at, stop) % 2:
        stop = data.find(b"\n", stop + 1)
    return stop


class PythonListing:
    """A list as it is taken; ``records`` are the directories' then."""

    def __init__(self, options: Options, form: forms.ListForm, root: bytes | None) -> None:
        self._options, self._form, self._root = options, form, root
        self._is_excluded = compile_globs(options.exclude)
        self._known: dict[bytes, _Directory] = {b"": _Directory(0)}
        self._faults: list[tuple[int, int, bytes]] = []
        self._fault_count = self._line = 0
        self._complete = False
        self.entries = self.bytes = 0

    def feed(self, data: bytes, last: bool) -> int:
        """Take whole records; return how many bytes they were."""
        taken = 0
        for record in records_of(data, self._form):
            taken += len(record) + 1
            self._line += 1
            self._complete = False
            if self._form.comments and record.startswith(b"#"):
                self._complete = record.startswith(b"#complete#")
                continue
            try:
                self._add(parse_record(record, self._form, self._root, self._options.mtime))
            except ListFault as fault:
                self._note(self._line, fault.code, fault.text)
            if self._form.kind == forms.COMMAS:
                self._line += record.count(b"\n")
        if last and taken < len(data):
            self._line += 1
            self._complete = False
            self._note(self._line, TORN, data[taken:])
            return len(data)
        return taken

    def _note(self, line: int, code: int, text: bytes) -> None:
        self._fault_count += 1
        if len(self._faults) < MOST_FAULTS:
            self._faults.append((line, code, text[:TEXT]))

    def _directory(self, path: bytes) -> _Directory:
        missing = []
        while path not in self._known:
            missing.append(path)
            path = path.rpartition(b"/")[0]
        found = self._known[path]
        for one in reversed(missing):
            name = _text(one.rpartition(b"/")[2])
            excluded = found.excluded or bool(self._is_excluded and self._is_excluded(name, _text(one)))
            if not excluded:
                found.record.directories.append(name)
            found = self._known[one] = _Directory(self._line, excluded=excluded)
        return found

    def _add(self, entry: ListedEntry) -> None:
        if entry.type == DIRECTORY:
            found = self._directory(entry.path)
            if found.listed and not found.excluded:
                self._note(self._line, TWICE, entry.path)
            found.listed = True
            self.entries += 1
            return
        above, _, last = entry.path.rpartition(b"/")
        directory, name = self._directory(above), _text(last)
        if directory.excluded or (entry.type == LINK and self._options.links == "skip"):
            return
        if self._is_excluded and self._is_excluded(name, _text(entry.path)):
            return
        self.entries += 1
        self.bytes += entry.size
        if entry.type == REGULAR:
            directory.record.files.append((name, entry.size, entry.mtime, 0, None))
        else:
            (directory.record.links if entry.type == LINK else directory.record.others).append(name)

    def end(self) -> tuple[int, list[tuple[int, int, bytes]], int, bool]:
        """Return what is wrong, as ``Walker.list_end`` does."""
        for path, directory in self._known.items():
            if directory.excluded:
                continue
            if path and not directory.listed:
                self._note(directory.line, NO_DIRECTORY, path)
            record = directory.record
            names = [*record.directories, *record.others, *record.links, *(file[0] for file in record.files)]
            if len(set(names)) != len(names):
                self._note(directory.line, DOUBLES, path)
        return self._fault_count, self._faults, self._line, self._complete

    def directories(self) -> Iterator[tuple[str, DirectoryRecord]]:
        """Yield what is known of each directory by its path with a final slash, for ``PythonWalker.adopt``."""
        for path, one in self._known.items():
            if not one.excluded:
                yield _text(path) + "/" * bool(path), one.record


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
