"""Read YAML as data: the one module that knows the library.

Input: text of any content. Output: plain values, and where each key was.
Invariant: no aliases, at most ``DEPTH`` levels and ``MOST_NODES`` values;
whatever the text, the answer is a value or a ``YamlError`` with its line.
An alias would let seven hundred bytes stand for a thousand million values.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.scanner import ScannerError

DEPTH = 32
MOST_BYTES = 1 << 19
MOST_NODES = 20_000
MOST_DIGITS = 4000  # of one value that is a number

Trail = tuple[str | int, ...]


class YamlError(ValueError):
    """A text is no YAML, or more than is taken: ``where`` (", line 3, column 5" or nothing) and ``what``."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{what}{where}")
        self.where, self.what = where, what


@dataclass
class Document:
    """A value with the line of each key and item by its place, and the (line, key) of keys that came twice."""

    value: Any
    lines: dict[Trail, int] = field(default_factory=dict)
    twice: list[tuple[int, str]] = field(default_factory=list)


class _Loader(yaml.SafeLoader):
    """The library's loader within bounds: it is stopped while it reads, not after it has built something."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise ComposerError(
                None, None, f"the alias *{event.anchor} is not supported; write its value out", self._mark(event)
            )
        self._nodes += 1
        if self._nodes > MOST_NODES:
            raise ComposerError(None, None, f"there are more than {MOST_NODES:,} values", self._mark(event))
        return super().compose_node(parent, index)

    @staticmethod
    def _mark(event: Any) -> Any:
        return event.start_mark

    def fetch_flow_collection_start(self, token: Any) -> None:
        if self.flow_level >= DEPTH:
            raise ScannerError(None, None, f"it is nested deeper than {DEPTH} levels", self.get_mark())
        super().fetch_flow_collection_start(token)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) >= DEPTH:
            raise ScannerError(None, None, f"it is nested deeper than {DEPTH} levels", self.get_mark())
        return bool(super().add_indent(column))

    def construct_yaml_int(self, node: Any) -> Any:
        if len(node.value) > MOST_DIGITS:
            raise ScannerError(None, None, f"a number has more than {MOST_DIGITS:,} digits", node.start_mark)
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: Any) -> float:
        value = float(super().construct_yaml_float(node)) if len(node.value) <= MOST_DIGITS else math.inf
        if not math.isfinite(value):
            raise ScannerError(None, None, f"{node.value[:40]!r} is not a number that is supported", node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def read_yaml(path: Path) -> Document:
    """Return the document of a file; ``YamlError`` when it is none, ``OSError`` when it cannot be read."""
    with path.open("rb") as stream:
        return parse_yaml(stream.read(MOST_BYTES + 1))


def parse_yaml(data: bytes) -> Document:
    """Return the document of a text (an empty one is None); ``YamlError`` when it is none."""
    if len(data) > MOST_BYTES:
        raise YamlError("", f"it has more than {MOST_BYTES:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError(f", byte {error.start}", "not UTF-8; save it as UTF-8") from None
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        document = Document(None if node is None else loader.construct_document(node))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise YamlError(where, f"not YAML ({error.problem or error.context})") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlError(f", line {line}", f"not YAML ({error.reason}: {_shown(error.character)})") from None
    except RecursionError:
        raise YamlError("", "it is nested too deeply") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:  # 2024-13-45, !!int x, !!binary é
        said = " ".join(str(error).split())[:200]
        raise YamlError("", f"a value is not of the type that its form says ({said})") from None
    finally:
        if loader is not None:
            loader.dispose()
    if node is not None:
        _note(node, (), document)
    return document


def _shown(character: Any) -> str:
    return f"U+{character if isinstance(character, int) else ord(character):04X}"


def _note(node: yaml.Node, trail: Trail, document: Document) -> None:
    """Record the line of every key and item, and the keys that are given twice."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*trail, str(key.value))
            line = key.start_mark.line + 1
            if here in document.lines:
                document.twice.append((line, str(key.value)))
            document.lines[here] = line
            _note(value, here, document)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*trail, index)] = item.start_mark.line + 1
            _note(item, (*trail, index), document)
