"""A crawl's result from a list that the file system's own inventory wrote: ``find ROOT --from LIST``.

Input: a root, a list in one of the forms of ``list_forms``. Output: a settled
walker, as a crawl leaves it.
Invariant: the tree has the bytes that a crawl of the same state gives. A list
that lacks directories, repeats paths, holds another root or torn lines is
refused with all of that, by line, and gives no tree.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lading.core.command_line import printable
from lading.core.errors import LadingError, UsageError, usage_errors
from lading.core.progress import counted
from lading.crawl import list_forms as forms
from lading.crawl.crawl import NO_MEMORY, TOO_LARGE, CrawlProgress, CrawlResult, agree
from lading.crawl.options import Options
from lading.crawl.python_listing import (
    BAD_PATH,
    BAD_SIZE,
    BAD_TIME,
    BAD_TYPE,
    DOUBLES,
    FOREIGN,
    NO_DIRECTORY,
    TORN,
    TWICE,
    ListFault,
    PythonListing,
    parse_record,
    records_of,
)
from lading.crawl.python_walker import PythonWalker
from lading.crawl.walker import make_walker

BLOCK = 1 << 20
HEAD = 64 << 10
MOST_NAMED = 20
LONGEST = 64 << 20  # of one record; more has no end
_SAYS = {
    TORN: "is not a whole line of this form: {}",
    FOREIGN: "is not below {root}: {}",
    BAD_PATH: "is not the path of an entry: {}",
    BAD_SIZE: "has no size in bytes: {}",
    BAD_TYPE: "has no known type: {}",
    BAD_TIME: "has no time in seconds with nanoseconds: {}",
    NO_DIRECTORY: "is in a directory that has no line of its own: {}",
    TWICE: "names a directory again: {}",
    DOUBLES: "names a path again: {}",
}


@dataclass(frozen=True)
class ListSource:
    """A list: its file, its form (None: by its first line), and how it writes the root (None: as the crawl's root)."""

    path: Path
    form: forms.ListForm | None = None
    root: str | None = None

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Open the list; names in ``.gz`` and ``.zst`` are unpacked."""
        try:
            with self.path.open("rb") as raw:
                if self.path.suffix == ".gz":
                    import gzip

                    with gzip.open(raw) as stream:
                        yield stream  # type: ignore[misc]
                elif self.path.suffix == ".zst":
                    import zstandard

                    with zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True) as packed:
                        yield packed
                else:
                    yield raw
        except (OSError, EOFError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"{self.path} cannot be read: {reason}") from error


def take_list(root: str, options: Options, source: ListSource, show: Callable[[CrawlProgress], None]) -> CrawlResult:
    """Return the tree that a list tells of.

    Raises ``UsageError`` with a line for each of the first errors of the list.
    """
    core = agree(root, None)
    form, header = _recognise(source)
    if options.mtime and not form.has_times:
        raise UsageError(
            f"{source.path} has no mtimes in nanoseconds, which --mtime needs (form {form.name}); leave --mtime out"
        )
    above = source.root if source.root is not None else root
    prefix = None if form.below or above == "" else os.fsencode(above.rstrip("/") or above)
    walker = make_walker(root, options, seed=False, core=core)
    try:
        reader = _Reader(walker, options, form, prefix)
        for block, last in _blocks(source, form, header):
            reader.feed(block, last)
            show(CrawlProgress(*walker.state()[:3], None, ()))
        count, faults, lines, complete = reader.end()
    except MemoryError:
        raise LadingError(NO_MEMORY) from None
    if form.name == "lester" and not complete:
        end = f"the line #complete# is missing at its end (line {lines})"
        raise UsageError(f"{source.path}: {end}: the list is truncated")
    if count:
        _refuse(source, form, header, prefix, count, faults)
    try:
        counts = walker.settle()
    except OverflowError:
        raise LadingError(TOO_LARGE) from None
    except MemoryError:
        raise LadingError(NO_MEMORY) from None
    return CrawlResult(walker, *counts, (), (), None)


class _Reader:
    """The compiled reader of lists, or Python's, behind one walker; holds what of a record is still to come."""

    def __init__(self, walker: Any, options: Options, form: forms.ListForm, prefix: bytes | None) -> None:
        self._walker = walker
        self._listing: PythonListing | None = None
        self._rest = b""
        if isinstance(walker, PythonWalker):
            self._listing = PythonListing(options, form, prefix)
        else:
            begin = form.kind, form.end, form.escapes, form.comments, prefix, form.program
            self._walker.list_begin(*begin)

    def feed(self, block: bytes, last: bool) -> None:
        """Take a block."""
        data = self._rest + block if self._rest else block
        feed = self._listing.feed if self._listing else self._walker.list_feed
        taken = feed(data, last)
        self._rest = data[taken:]
        if len(self._rest) > LONGEST:
            raise UsageError(f"the list has a line of more than {LONGEST >> 20} MB; is it in another form?")

    def end(self) -> tuple[int, list[tuple[int, int, bytes]], int, bool]:
        """Return (number of errors, the first ones, lines, whether the list says that it is complete)."""
        if self._listing is None:
            found: tuple[int, list[tuple[int, int, bytes]], int, bool] = self._walker.list_end()
            return found
        found = self._listing.end()
        if not found[0]:
            self._walker.adopt(self._listing.directories())
        return found


def _recognise(source: ListSource) -> tuple[forms.ListForm, int]:
    """Return the form with its columns, and the length of the header."""
    form = source.form
    with source.open() as stream:
        head = stream.read(HEAD)
    if form is None:
        form = forms.guess_form(source.path.name.removesuffix(".gz").removesuffix(".zst"), head)
    if form.name == "parquet":
        return _parquet_columns(source)[0], 0
    if form.name != "csv":
        return form, 0
    names, length = forms.split_header(head)
    return forms.with_columns(form, names), length


def _blocks(source: ListSource, form: forms.ListForm, header: int) -> Iterator[tuple[bytes, bool]]:
    """Yield the records of a list as bytes; the last block says that it is."""
    if form.name == "parquet":
        yield from _parquet_blocks(source)
        yield b"", True
        return
    with source.open() as stream:
        stream.read(header)
        while block := stream.read(BLOCK):
            yield block, False
    yield b"", True


def _refuse(
    source: ListSource,
    form: forms.ListForm,
    header: int,
    prefix: bytes | None,
    count: int,
    faults: list[tuple[int, int, bytes]],
) -> None:
    """Raise ``UsageError`` with the errors in the order of lines."""
    doubled = {path for _, code, path in faults if code == DOUBLES}
    found = [fault for fault in faults if fault[1] != DOUBLES]
    if doubled:
        more = _find_doubles(source, form, header, prefix, doubled)
        found += more
        count += max(0, len(more) - len(doubled))
    first = 1 if header else 0  # the line of the columns
    word = "row" if form.name == "parquet" else "line"
    root = printable(os.fsdecode(prefix)) if prefix else "the root"
    lines = [
        f"{source.path}: {word} {line + first} "
        + _SAYS[code].format(printable(os.fsdecode(text)) or "(nothing)", root=root)
        for line, code, text in sorted(found)[:MOST_NAMED]
    ]
    if count > len(lines):
        lines.append(f"{source.path}: {counted(count - len(lines), 'more error')} of these kinds")
    if any(code == NO_DIRECTORY for _, code, _ in found):
        lines.append("let the list name directories, too (GPFS: DIRECTORIES_PLUS; lester: show_dirs)")
    raise usage_errors(lines)


def _find_doubles(
    source: ListSource, form: forms.ListForm, header: int, prefix: bytes | None, directories: set[bytes]
) -> list[tuple[int, int, bytes]]:
    """Return the lines that name a path of some directories again; reads the list once more, in Python."""
    seen: set[int] = set()  # digests of paths would do no better: this only chooses what a person is shown
    found: list[tuple[int, int, bytes]] = []
    line, rest = 0, b""
    for block, _ in _blocks(source, form, header):
        rest += block
        taken = 0
        for record in records_of(rest, form):
            taken += len(record) + 1
            line += 1
            try:
                path = parse_record(record, form, prefix, mtime=False).path
            except ListFault:
                path = b""
            if path and path.rpartition(b"/")[0] in directories:
                if hash(path) in seen:
                    found.append((line, DOUBLES, path))
                seen.add(hash(path))
            if form.kind == forms.COMMAS:
                line += record.count(b"\n")
            if len(found) >= MOST_NAMED:
                return found
        rest = rest[taken:]
    return found


# -- Parquet --


def _parquet_file(source: ListSource) -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UsageError(
            "reading a Parquet list needs the Python package pyarrow, which is not installed: pip install pyarrow"
        ) from error
    try:
        return parquet.ParquetFile(source.path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{source.path} is not a Parquet file: {' '.join(str(error).split())}") from error


def _parquet_columns(source: ListSource) -> tuple[forms.ListForm, dict[int, str]]:
    """Return the form of the lines that its rows become, and the column of each role."""
    names = list(_parquet_file(source).schema_arrow.names)
    columns = {
        role: name
        for (role, _), name in zip(forms.with_columns(forms.parse_form("csv"), names).fields, names)
        if role != forms.SKIPPED
    }
    form = forms.parse_form("parquet")
    if forms.TIME_NS not in columns:
        form = forms.without_times(form)
    return form, columns


def _parquet_blocks(source: ListSource) -> Iterator[tuple[bytes, bool]]:
    import pyarrow
    import pyarrow.compute as compute

    form, columns = _parquet_columns(source)
    text, between = pyarrow.string(), pyarrow.scalar("\1")

    def column(batch: Any, role: int) -> Any:
        found = batch.column(columns[role])
        if pyarrow.types.is_timestamp(found.type):
            found = found.cast(pyarrow.int64())
        return compute.fill_null(found.cast(text), "")

    try:
        for batch in _parquet_file(source).iter_batches(1 << 16, columns=list(columns.values())):
            parts = [column(batch, role) for role, _ in form.fields if role != forms.PATH]
            if forms.PATH in columns:
                path = column(batch, forms.PATH)
            else:
                above = compute.utf8_rtrim(column(batch, forms.PARENT), "/")
                path = compute.binary_join_element_wise(above, column(batch, forms.NAME), pyarrow.scalar("/"))
            end = compute.binary_join_element_wise(path, pyarrow.scalar(""), pyarrow.scalar("\0"))
            whole = compute.binary_join_element_wise(*parts, end, between)
            yield _bytes_of(whole), False
    except (OSError, ValueError) as error:
        raise UsageError(f"{source.path} cannot be read: {' '.join(str(error).split())}") from error


def _bytes_of(values: Any) -> bytes:
    """Return the texts of an array one after the other: they lie so in its buffer."""
    import numpy as np

    _, offsets, data = values.buffers()
    ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return bytes(memoryview(data)[int(ends[0]) : int(ends[-1])])
