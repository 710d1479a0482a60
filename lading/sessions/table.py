"""A job list as people keep it: csv or xlsx in, rows of named cells out.

Input: a ``.csv`` (UTF-8, with or without the mark that spreadsheets write) or
``.xlsx`` file, or its bytes. Output: a ``Table`` of rows and of every fault
of the file's form, with line and column.
Invariant: nothing is dropped in silence: a cell lands under a known name or
in a fault. Pure: no clock, no network, no other file.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, time
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

from lading.core.errors import UsageError
from lading.core.progress import counted
from lading.sessions.columns import expand, recognise
from lading.sessions.values import as_cell

# A list is written by people: what is larger is none, or is meant to fill the memory of who reads it.
MOST_COLUMNS = 1_000
MOST_LINES = 100_000
MOST_LINE = 1 << 20  # characters of a line with quotes and more delimiters than columns
# The last row that a spreadsheet has: blank lines count for nothing, but are read.
LAST_LINE = 1_048_576
MOST_NESTING = 100
# The header is looked for in so many lines: titles and notes may stand above it.
HEADER_WITHIN = 20
LARGEST_WORKBOOK = 20_000_000
# Names of document types and entities are told by these, in any encoding that the parser knows.
_DECLARATIONS = (b"<!DOCTYPE", b"<!ENTITY")
PIECE = 1 << 16
# What a cell may hold: text from csv; xlsx knows numbers, truth values and dates too, JSON anything that it can say.
Value = Any


@dataclass(frozen=True, order=True)
class ListError:
    """What is wrong with one cell.

    ``line`` and ``column`` count from 1 (line 1 is the header; a column that
    lacks is one past the last), ``name`` is the canonical column name.
    """

    line: int
    column: int
    name: str
    message: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.message}"


@dataclass(frozen=True)
class Cell:
    """One filled cell and where it stands."""

    value: Value
    column: int


@dataclass(frozen=True)
class ListRow:
    """One session: canonical column name → cell; blank cells are left out."""

    line: int
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class Table:
    """A job list: ``columns`` maps the canonical name of each column to its number.

    ``sheet`` is the name of its sheet where the workbook shows more than one.
    """

    columns: Mapping[str, int]
    rows: tuple[ListRow, ...]
    faults: tuple[ListError, ...] = field(default=())
    sheet: str = ""


def read(path: Path) -> Table:
    """Return the table in a file.

    Raises ``UsageError`` when it is missing or neither csv nor xlsx; whatever
    is wrong inside is in ``Table.faults``.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; give the path of a job list") from error
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    return read_bytes(content, path.name)


def read_bytes(content: bytes, name: str, most_rows: int = MOST_LINES) -> Table:
    """Return the table in the bytes of a file called ``name`` (its ending tells the form).

    ``UsageError`` also for more than ``most_rows`` rows, ``MOST_LINES`` lines
    or ``MOST_COLUMNS`` columns; nothing of it is kept in memory then.
    """
    ending = Path(name).suffix.lower()
    if ending == ".csv":
        return _table(_bounded(_csv_lines(content, name), name, most_rows))
    if ending == ".xlsx":
        with _workbook(content, name) as (lines, sheet, several):
            table = _table(_bounded(lines, f"{name}, sheet {sheet!r}" if several else name, most_rows))
        # With one sheet there is nothing to confuse.
        return replace(table, sheet=sheet if several else "")
    raise UsageError(f"{name} is not a job list: its name must end in .csv or .xlsx")


def _bounded(
    lines: Iterator[tuple[int, Sequence[Value]]], name: str, most_rows: int
) -> Iterator[tuple[int, Sequence[Value]]]:
    filled = -1  # the header is none
    for number, cells in lines:
        if len(cells) > MOST_COLUMNS:
            raise UsageError(f"{name}, line {number}: more than {MOST_COLUMNS} columns; is this a job list?")
        if number > LAST_LINE:
            raise UsageError(f"{name} has more than {LAST_LINE} lines; split it")
        if all(_plain(cell) == "" for cell in cells):
            continue  # a blank line may be coloured or framed: a spreadsheet keeps a million of them
        filled += 1
        if filled > MOST_LINES:
            raise UsageError(f"{name} has more than {MOST_LINES} lines; split it")
        if filled > most_rows:
            raise UsageError(f"{name} holds more than {counted(most_rows, 'job')}; split the list")
        yield number, cells


def _csv_lines(content: bytes, name: str) -> Iterator[tuple[int, Sequence[Value]]]:
    """Yield (line on which the record starts, cells)."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UsageError(f"{name}, line {line}: not UTF-8; save the list as “CSV UTF-8”") from error
    delimiter, skipped = find_delimiter(text)
    lines = _narrow(io.StringIO(text, newline=""), delimiter, name)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    start = 1
    try:
        for cells in reader:
            if start > skipped:
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise UsageError(f"{name}, line {start}: not csv ({error}); a quote may be left open") from error


def _narrow(lines: Iterable[str], delimiter: str, name: str) -> Iterator[str]:
    """Yield lines; ``UsageError`` for one whose cells alone would take much memory.

    Delimiters between quotes part no cells, so a line with quotes may have more of them while it is short.
    """
    for number, line in enumerate(lines, 1):
        if line.count(delimiter) >= MOST_COLUMNS and ('"' not in line or len(line) > MOST_LINE):
            raise UsageError(f"{name}, line {number}: more than {MOST_COLUMNS} columns; is this a job list?")
        yield line


def find_delimiter(text: str) -> tuple[str, int]:
    """Return what parts the cells of a csv text, and how many lines say only that (``sep=;``, as Excel writes it)."""
    first = text.lstrip("\r\n").split("\n", 1)[0].strip()
    said = _SEPARATOR.fullmatch(first)
    if said:
        return said[1], text[: text.index(first)].count("\n") + 1
    return next((sign for sign in ",;\t" if sign in first), ","), 0


_SEPARATOR = re.compile(r'"?sep=([,;\t|])"?[,;]*', re.IGNORECASE)


@dataclass(frozen=True)
class HiddenDigits:
    """A number that its cell shows otherwise than it is."""

    value: float
    shown: str


@contextmanager
def _workbook(content: bytes, name: str) -> Iterator[tuple[Iterator[tuple[int, Sequence[Value]]], str, bool]]:
    """Open a workbook: yields the lines of its list, the name of that sheet, and whether others are visible."""
    import zipfile

    from openpyxl import load_workbook

    try:
        # zipfile never inflates a member beyond the size in the directory, so the sum bounds what follows.
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > LARGEST_WORKBOOK:
            raise UsageError(f"{name} unpacks to {size} bytes, more than {LARGEST_WORKBOOK}; save the list as csv")
        declares = _find_declaration(content)
        if declares:
            what = f"{declares} declares a document type, which no spreadsheet program writes"
            raise UsageError(f"{name} is not an xlsx workbook: {what}; save it again, or as csv")
        book = load_workbook(io.BytesIO(content), read_only=True, data_only=True)
        sheets = [sheet for sheet in book.worksheets if sheet.sheet_state == "visible"] or book.worksheets[:1]
        for sheet in sheets:
            # Rows are as wide as their cells, not as the size that the sheet claims to have.
            sheet.reset_dimensions()
        chosen = _choose(sheets, book.active)
        yield _sheet_lines(chosen), chosen.title, len(sheets) > 1
    except UsageError:
        raise
    except Exception as error:  # a broken sheet ends in whatever the parser met: any of a dozen types
        raise UsageError(f"{name} is not an xlsx workbook ({error}); save it again, or as csv") from error


def _find_declaration(content: bytes) -> str | None:
    """Return the name of a part that declares a document type or an entity, which could grow without bound.

    Every part is looked at before a parser is, in pieces. Without its NULs a
    text in UTF-16 or UTF-32 reads like one in UTF-8.
    """
    import zipfile

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            with archive.open(member) as stream:
                last = b""
                while piece := stream.read(PIECE):
                    text = last + piece.replace(b"\0", b"")
                    if any(word in text for word in _DECLARATIONS):
                        return member.filename.encode("ascii", "backslashreplace").decode("ascii")[:80]
                    last = text[-16:]
    return None


def _choose(sheets: Sequence[Any], active: Any) -> Any:
    """Return the sheet whose first lines name the most columns; among equals the one that was open, then the first."""
    if len(sheets) == 1:
        return sheets[0]

    def known(sheet: Any) -> int:
        lines = islice(_sheet_lines(sheet), HEADER_WITHIN)
        return max((_known_headers(cells) for _, cells in lines), default=0)

    return max(sheets, key=lambda sheet: (known(sheet), sheet is active or sheet.title == getattr(active, "title", "")))


def _sheet_lines(sheet: Any) -> Iterator[tuple[int, Sequence[Value]]]:
    """Yield (row number, cells) of a sheet."""
    for number, row in enumerate(sheet.iter_rows(), 1):
        yield number, [_cell_value(cell) for cell in row]


def _cell_value(cell: Any) -> Value:
    """Return what a person sees in a cell, as far as it is a value of its own."""
    value = cell.value
    if value is None:
        return ""
    form = getattr(cell, "number_format", None) or "General"
    if isinstance(value, datetime) and "h" not in form.lower() and value.time() == time():
        return f"{value:%Y-%m-%d}"  # a date: that it holds midnight too was nobody's choice
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if re.fullmatch("0+", form) and value == int(value) and value >= 0:
            return str(int(value)).zfill(len(form))
        return _with_hidden_digits(value, form)
    return value


def _with_hidden_digits(value: float, form: str) -> Value:
    """Return a number, marked when its format shows another one."""
    match = re.fullmatch(r"[#,]*0(?:\.(0+))?(E\+0+)?", form)
    if not match or not math.isfinite(value):
        return value
    places = len(match[1] or "")
    seen = f"{value:.{places}e}" if match[2] else f"{value:.{places}f}"
    return value if math.isclose(float(seen), value, rel_tol=1e-12) else HiddenDigits(value, seen)


def _known_headers(cells: Sequence[Value]) -> int:
    """Return how many cells of a line are names of columns."""
    found = 0
    for cell in cells:
        with suppress(ValueError):
            found += isinstance(cell, str) and cell.strip() != "" and bool(recognise(cell))
    return found


def _table(lines: Iterator[tuple[int, Sequence[Value]]]) -> Table:
    faults: list[ListError] = []
    lines, header_line, header = _find_header(lines, faults)
    names = _header(header_line, header, faults) if header is not None else {}
    rows = []
    for line, cells in lines if names else ():
        filled = {number: value for number, value in enumerate(map(_plain, cells), 1) if value != ""}
        row: dict[str, Cell] = {}
        for number, value in filled.items():
            name = names.get(number)
            if name:
                faults += _fill(row, line, number, name, value)
            elif number > len(header or ()) or _plain((header or ())[number - 1]) == "":
                # Never the value: a password may have slipped one column to the right.
                faults.append(
                    ListError(
                        line, number, "", f"a value has no header above it; {len(header or ())} columns are named"
                    )
                )
        rows.append(ListRow(line, row))
    if names and not rows:
        faults.append(
            ListError(header_line + 1, 1, "", "the list has no rows; write one session per line below the header")
        )
    return Table({name: number for number, name in names.items()}, tuple(rows), tuple(sorted(faults)))


def _find_header(
    lines: Iterator[tuple[int, Sequence[Value]]], faults: list[ListError]
) -> tuple[Iterator[tuple[int, Sequence[Value]]], int, Sequence[Value] | None]:
    """Return (the lines below the header, its line, its cells); cells are None where no line names a column.

    What is above it is one fault, and so is a list without header: nothing
    else can be said of either.
    """
    first = [(line, cells) for line, cells in islice(lines, HEADER_WITHIN)]
    counts = [_known_headers(cells) for _, cells in first]
    best = max(counts, default=0)
    if not best:
        line = first[0][0] if first else 1
        shown = next((str(_plain(cell))[:60] for cell in (first[0][1] if first else ()) if _plain(cell) != ""), "")
        seen = f"; it begins with {shown!r}" if shown else ""
        faults.append(ListError(line, 1, "", f"the list has no header; its first line must name the columns{seen}"))
        return iter(()), line, None
    # A title may hold a word that is a column, too.
    chosen = 0 if counts[0] and best - counts[0] < 2 else counts.index(best)
    line, cells = first[chosen]
    above = [(number, cells_) for number, cells_ in first[:chosen] if not _is_comment(cells_)]
    if above:
        what = f"the columns are named on line {line}; delete what is above it, or begin it with #"
        faults.append(ListError(above[0][0], 1, "", what))
    return chain(first[chosen + 1 :], lines), line, cells


def _is_comment(cells: Sequence[Value]) -> bool:
    return next((str(_plain(cell)).startswith("#") for cell in cells if _plain(cell) != ""), True)


def _fill(row: dict[str, Cell], line: int, number: int, name: str, value: Value) -> Iterator[ListError]:
    """Put a cell into its row, under the column that each of its settings is; yields what is wrong with it."""
    if isinstance(value, HiddenDigits):
        held = f"{value.value:.15g}"
        message = f"the cell shows {value.shown}, but holds {held}; format it as text and write what is meant"
        yield ListError(line, number, name, f"{name}: {message}")
        return
    if _nesting(value) > MOST_NESTING:
        yield ListError(line, number, name, f"{name}: nested more than {MOST_NESTING} deep; is this a setting?")
        return
    try:
        for column, item in expand(name, value):
            if column in row and as_cell(row[column].value) != as_cell(item):
                message = f"{column} is given twice, here and in column {row[column].column}; leave one of them blank"
                yield ListError(line, number, name, message)
            row[column] = Cell(item, number)
    except ValueError as error:
        yield ListError(line, number, name, f"{name}: {error}")


def of_objects(rows: Sequence[Mapping[str, Value] | None]) -> Table:
    """Return the table of cells by column name, as a request gives them: row n is on line n + 1, None for none.

    Values keep their types. ``UsageError`` for more than ``MOST_COLUMNS`` columns.
    """
    names = list(dict.fromkeys(name for row in rows for name in row or ()))
    if len(names) > MOST_COLUMNS:
        raise UsageError(f"more than {MOST_COLUMNS} different fields; are these jobs?")
    faults: list[ListError] = []
    columns = _header(1, names, faults)
    numbers = {written: number for number, written in enumerate(names, 1)}
    found = []
    for line, cells in enumerate(rows, 2):
        row: dict[str, Cell] = {}
        for written, value in (cells or {}).items():
            name = columns.get(numbers[written])
            if name:
                faults += _fill(row, line, numbers[written], name, value)
        if cells is not None:
            found.append(ListRow(line, row))
    present = {name: number for number, name in columns.items()}
    for row_ in found:
        present |= {name: cell.column for name, cell in row_.cells.items() if name not in present}
    return Table(present, tuple(found), tuple(sorted(faults)))


def _header(line: int, header: Sequence[Value], faults: list[ListError]) -> dict[int, str]:
    """Return column number → canonical name; adds a fault for every header that has none."""
    names: dict[int, str] = {}
    taken: dict[str, int] = {}
    for number, text in enumerate(map(_plain, header), 1):
        if text == "":
            continue
        try:
            name = recognise(str(text))
        except ValueError as error:
            faults.append(ListError(line, number, str(text), str(error)))
            continue
        if name in taken:
            message = f"{str(text)!r} means {name}, which column {taken[name]} already holds; number the modalities"
            faults.append(ListError(line, number, name, message))
            continue
        taken[name] = number
        names[number] = name
    return names


def _nesting(value: Value) -> int:
    """Return how deep a cell's JSON may be nested at most: its brackets, those in texts too."""
    if not isinstance(value, str) or value[:1] not in ("[", "{"):
        return 0
    return max(accumulate((sign in "[{") - (sign in "]}") for sign in value))


def _plain(value: Value) -> Value:
    return value.strip() if isinstance(value, str) else value
