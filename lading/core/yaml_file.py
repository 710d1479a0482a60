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
    """A value with line and column of each key and item by its place, and the (line, key) of keys that came twice."""

    value: Any
    lines: dict[Trail, int] = field(default_factory=dict)
    twice: list[tuple[int, str]] = field(default_factory=list)
    columns: dict[Trail, int] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """The library's loader within bounds: it is stopped while it reads, not after it has built something."""

    def __init__(self, text: str, most_nodes: int) -> None:
        super().__init__(text)
        self._nodes, self._most_nodes = 0, most_nodes

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise ComposerError(
                None, None, f"the alias *{event.anchor} is not supported; write its value out", self._mark(event)
            )
        self._nodes += 1
        if self._nodes > self._most_nodes:
            raise ComposerError(None, None, f"there are more than {self._most_nodes:,} values", self._mark(event))
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


def _construct_int(loader: Any, node: Any) -> int:
    if len(node.value) > MOST_DIGITS:
        raise ScannerError(None, None, f"a number has more than {MOST_DIGITS:,} digits", node.start_mark)
    return int(yaml.SafeLoader.construct_yaml_int(loader, node))


def _construct_float(loader: Any, node: Any) -> float:
    long = len(node.value) > MOST_DIGITS
    value = math.inf if long else float(yaml.SafeLoader.construct_yaml_float(loader, node))
    if not math.isfinite(value):
        raise ScannerError(None, None, f"{node.value[:40]!r} is not a number that is supported", node.start_mark)
    return value


_LOADERS: list[Any] = [_Loader]
if yaml.__with_libyaml__:  # ten times as fast: for lists of thousands of releases

    class _CompiledLoader(yaml.CSafeLoader):
        """The compiled loader, for texts whose events were counted before: it has no bounds of its own."""

    _LOADERS.append(_CompiledLoader)
for _each in _LOADERS:
    _each.add_constructor("tag:yaml.org,2002:int", _construct_int)
    _each.add_constructor("tag:yaml.org,2002:float", _construct_float)


def _is_plain(text: str, most_nodes: int) -> bool:
    """Tell whether the compiled loader may have a text: well formed, without aliases, within the bounds."""
    depth = nodes = 0
    try:
        for event in yaml.parse(text, Loader=_LOADERS[-1]):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.AliasEvent):
                return False
            nodes += isinstance(event, yaml.NodeEvent)
            if depth > DEPTH or nodes > most_nodes:
                return False
    except (yaml.YAMLError, ValueError):
        return False
    return True


def read_yaml(path: Path, *, most_bytes: int = MOST_BYTES, most_nodes: int = MOST_NODES) -> Document:
    """Return the document of a file; ``YamlError`` when it is none, ``OSError`` when it cannot be read."""
    with path.open("rb") as stream:
        return parse_yaml(stream.read(most_bytes + 1), most_bytes=most_bytes, most_nodes=most_nodes)


def parse_yaml(data: bytes, *, most_bytes: int = MOST_BYTES, most_nodes: int = MOST_NODES) -> Document:
    """Return the document of a text (an empty one is None); ``YamlError`` when it is none.

    With a bound above the usual ones a text goes to the compiled loader, after a look that it keeps them.
    """
    if len(data) > most_bytes:
        raise YamlError("", f"it has more than {most_bytes:,} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError(f", byte {error.start}", "not UTF-8; save it as UTF-8") from None
    loader = None
    try:
        quick = most_nodes > MOST_NODES and len(_LOADERS) > 1 and _is_plain(text, most_nodes)
        loader = _LOADERS[-1](text) if quick else _Loader(text, most_nodes)
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
            document.columns[here] = key.start_mark.column + 1
            _note(value, here, document)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            document.lines[(*trail, index)] = item.start_mark.line + 1
            document.columns[(*trail, index)] = item.start_mark.column + 1
            _note(item, (*trail, index), document)


def write_yaml(value: Any) -> str:
    """Return a plain value as YAML, its keys in the order that they have."""
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100))
