"""Read what others may have written: JSON, lines and typed members, all of it within bounds.

Input: bytes or a file of any content. Output: values of the types that were
asked for.
Invariant: whatever the input, the answer is a value or a ``ValueError`` whose
words fit into a sentence; never a ``RecursionError``, never memory beyond a
few times the bound, and no text that cannot be a file's name again.
"""

import contextlib
import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

T = TypeVar("T")

DEPTH = 64  # of objects and lists; artefacts have six at most
SMALL_BYTES = 1 << 20  # locks, leases, claims, markers, outcomes
FILE_BYTES = 64 << 20  # records of a run, settings, notes
PLAN_BYTES = 4 << 30  # a plan of a million batches
LINE_BYTES = 16 << 20  # of a journal: a snapshot names all journals that it replaced
INT64 = (1 << 63) - 1

# Surrogates that stand for no byte, and NUL: such a text is the name of nothing.
_NO_NAME = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


# Made once: json.loads with other settings than its own makes a decoder each time.
_DECODE = json.JSONDecoder(parse_constant=_refuse_constant).decode


def parse_json(data: bytes | str) -> Any:
    """Return the value of a JSON text; ``ValueError`` when it is none, or is nested deeper than ``DEPTH``."""
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        value = _DECODE(text)
        if text.count("[") + text.count("{") > DEPTH and _is_deep(value):
            raise RecursionError
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEPTH} levels") from None
    return value


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below += [inner for inner in item.values() if isinstance(inner, dict | list)]
            elif isinstance(item, list):
                below += [inner for inner in item if isinstance(inner, dict | list)]
        if not below:
            return False
        level = below
    return True


def read_bounded(path: Path | str, most: int = FILE_BYTES) -> bytes:
    """Return the bytes of a file; ``ValueError`` when there are more than ``most``."""
    with open(path, "rb") as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return data


def read_json(path: Path | str, most: int = FILE_BYTES) -> Any:
    """Return the JSON value of a file; ``ValueError`` for anything else, ``OSError`` when it cannot be read."""
    return parse_json(read_bounded(path, most))


def read_object(path: Path | str, most: int = FILE_BYTES) -> dict[str, Any]:
    """Return the JSON object of a file; ``ValueError`` for anything else."""
    value = read_json(path, most)
    if not isinstance(value, dict):
        raise ValueError(f"it holds {kind_of(value)}, not an object")
    return value


def lines_of(stream: IO[bytes], most: int = LINE_BYTES) -> Iterator[tuple[bytes, int]]:
    """Yield (line with its newline, its length); of a longer one than ``most`` only the newline, if it has one."""
    readline = stream.readline
    while line := readline(most):
        length = len(line)
        if length == most and not line.endswith(b"\n"):
            while not line.endswith(b"\n"):
                if not (line := readline(SMALL_BYTES)):
                    break
                length += len(line)
            line = line[-1:]
        yield line, length


def kind_of(value: Any) -> str:
    """Return what a JSON value is, for people."""
    return {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}.get(
        type(value), "a number"
    )


def is_name(text: str) -> bool:
    """Tell whether a text can name a file: no NUL, and no surrogate that stands for no byte."""
    return (text.isascii() and "\0" not in text) or not _NO_NAME.search(text)


class JsonMembers:
    """The members of a JSON object, taken one by one, each with its type and bounds.

    ``what`` is the object's name in the ``ValueError`` of a member that is
    missing or of another type. ``default`` stands for a member that is absent.
    """

    _ABSENT: Any = object()

    def __init__(self, value: Any, what: str = "it") -> None:
        if not isinstance(value, dict):
            raise ValueError(f"{what} is {kind_of(value)}, not an object")
        self._value: Mapping[str, Any] = value
        self._what = what

    def _take(self, name: str, default: Any) -> Any:
        found = self._value.get(name, default)
        if found is self._ABSENT:
            raise ValueError(f"{self._what} has no {name!r}")
        return found

    def _wrong(self, name: str, wanted: str) -> ValueError:
        shown = repr(self._value.get(name))
        return ValueError(f"{name!r} of {self._what} is {shown[:60]}, not {wanted}")

    def text(self, name: str, default: Any = _ABSENT) -> str:
        """Return a text that could name a file."""
        found = self._take(name, default)
        if type(found) is not str or not is_name(found):
            raise self._wrong(name, "text")
        return found

    def text_or_none(self, name: str, default: Any = _ABSENT) -> str | None:
        """Return a text, or None for null."""
        return None if self._take(name, default) is None else self.text(name, default)

    def number(self, name: str, default: Any = _ABSENT, *, least: int = 0, most: int = INT64) -> int:
        """Return a whole number within bounds."""
        found = self._take(name, default)
        if type(found) is not int or not least <= found <= most:
            raise self._wrong(name, f"a whole number from {least} to {most}")
        return found

    def real(self, name: str, default: Any = _ABSENT) -> float:
        """Return a finite number."""
        found = self._take(name, default)
        if type(found) not in (int, float) or not -1e300 < found < 1e300 or not math.isfinite(found):
            raise self._wrong(name, "a number")
        return float(found)

    def flag(self, name: str, default: Any = _ABSENT) -> bool:
        """Return true or false."""
        found = self._take(name, default)
        if type(found) is not bool:
            raise self._wrong(name, "true or false")
        return found

    def object(self, name: str, default: Any = _ABSENT) -> dict[str, Any]:
        """Return an object."""
        found = self._take(name, default)
        if not isinstance(found, dict):
            raise self._wrong(name, "an object")
        return found

    def members(self, name: str, default: Any = _ABSENT) -> "JsonMembers":
        """Return the members of an object inside."""
        return JsonMembers(self.object(name, default), f"{name!r} of {self._what}")

    def items(self, name: str, take: Callable[[Any], T], default: Any = _ABSENT) -> tuple[T, ...]:
        """Return a list, each item by ``take``, which raises ``ValueError`` for what it does not."""
        found = self._take(name, default)
        if not isinstance(found, Sequence) or isinstance(found, str):
            raise self._wrong(name, "a list")
        return tuple(map(take, found))

    def texts(self, name: str, default: Any = _ABSENT) -> tuple[str, ...]:
        """Return a list of texts."""
        return self.items(name, as_text, default)


def as_text(value: Any) -> str:
    """Return a value that is a text; ``ValueError`` for another."""
    if type(value) is not str or not is_name(value):
        raise ValueError(f"{repr(value)[:60]} is not a text")
    return value


def decode(kind: type[T], value: Any, what: str = "") -> T:
    """Return a JSON object as the dataclass ``kind``: each field of its annotated type, members of no field left out.

    Raises ``ValueError`` for what is missing or of another type. For records
    that few are read of; what is read by the million has checks of its own.
    """
    name = what or kind.__name__
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {kind_of(value)}, not an object")
    given: dict[str, Any] = {}
    hints = _hints(typing.cast(typing.Hashable, kind))
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if field.name in value:
            given[field.name] = _as(hints[field.name], value[field.name], f"{field.name!r} of {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{name} has no {field.name!r}")
    return kind(**given)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _as(hint: Any, value: Any, what: str) -> Any:
    """Return a value as an annotation has it; ``ValueError`` when it is of another type."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in inner:
            return None
        wanted = [kind for kind in inner if kind is not type(None)]
        for kind in wanted[:-1]:
            with contextlib.suppress(ValueError):
                return _as(kind, value, what)
        return _as(wanted[-1], value, what)
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(type, hint), value, what)
    if hint in _PLAIN:
        if _PLAIN[hint](value):
            return hint(value)
    elif origin in (tuple, list, Sequence) and isinstance(value, list):
        if origin is not tuple or inner[-1:] == (...,):
            items = [_as(inner[0], item, f"an item of {what}") for item in value]
            return items if origin is list else tuple(items)
        if len(value) == len(inner):
            return tuple(_as(kind, item, f"an item of {what}") for kind, item in zip(inner, value))
    elif origin in (dict, Mapping) and isinstance(value, dict):
        return {name: _as(inner[1], item, f"{name[:40]!r} of {what}") for name, item in value.items()}
    raise ValueError(f"{what} is {repr(value)[:60]}")


# Inodes and devices have 64 bits without a sign.
_PLAIN: dict[Any, Callable[[Any], bool]] = {
    str: lambda value: type(value) is str and is_name(value),
    Path: lambda value: type(value) is str and is_name(value),
    bool: lambda value: type(value) is bool,
    int: lambda value: type(value) is int and abs(value) <= 2 * INT64 + 1,
    float: lambda value: type(value) in (int, float) and -1e300 < value < 1e300,
}
