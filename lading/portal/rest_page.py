"""The REST interface for a person to read: a page made from the service's own OpenAPI document.

Input: the document as ``/openapi.json`` gives it. Output: what the template
shows of each operation.
Invariant: pure; nothing is described here that the document does not hold,
so page and service cannot disagree.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

METHODS = ("get", "post", "put", "delete", "patch")
# Schemas may name themselves; a page ends somewhere.
DEEPEST = 6


@dataclass(frozen=True)
class ApiField:
    """One parameter, or one member of a body."""

    name: str
    where: str
    kind: str
    required: bool
    default: str
    text: str


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    text: str
    fields: tuple[ApiField, ...]
    answers: tuple[tuple[str, str], ...]

    @property
    def anchor(self) -> str:
        """The name of its place in the page."""
        return f"{self.method}{self.path}".replace("/", "-").replace("{", "").replace("}", "")


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """Return every operation of a document, in its order."""
    return [
        Operation(
            method,
            path,
            str(item.get("description") or item.get("summary") or ""),
            (*_parameters(item, document), *_body(item, document)),
            tuple(
                (code, str(answer.get("description", "")).replace("Successful Response", "done"))
                for code, answer in sorted(item["responses"].items())
            ),
        )
        for path, methods in document["paths"].items()
        for method, item in methods.items()
        if method in METHODS
    ]


def _parameters(item: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[ApiField]:
    for given in item.get("parameters", ()):
        schema = given.get("schema", {})
        text = str(given.get("description") or schema.get("description") or "")
        needed = bool(given.get("required"))
        yield ApiField(given["name"], given["in"], _kind(schema, document), needed, _default(schema), text)


def _body(item: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[ApiField]:
    for media, content in item.get("requestBody", {}).get("content", {}).items():
        where = {"application/json": "JSON body", "multipart/form-data": "form"}.get(media, media)
        schema = _resolved(content.get("schema", {}), document)
        if not schema.get("properties"):
            yield ApiField("(body)", where, _kind(schema, document), True, "", str(schema.get("description", "")))
        for name, member in schema.get("properties", {}).items():
            needed = name in schema.get("required", ())
            text = str(member.get("description", ""))
            yield ApiField(name, where, _kind(member, document), needed, _default(member), text)


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema that a reference names."""
    for _ in range(DEEPEST):
        if "$ref" not in schema:
            break
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def _kind(schema: Mapping[str, Any], document: Mapping[str, Any], depth: int = 0) -> str:
    """Return the type of a schema in words."""
    schema = _resolved(schema, document)
    if depth > DEEPEST:
        return "…"
    if "const" in schema:
        return repr(schema["const"])
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        kinds = dict.fromkeys(_kind(branch, document, depth + 1) for branch in branches)
        return " or ".join(kind for kind in kinds if kind != "null") or "null"
    kind = str(schema.get("type", "anything"))
    if schema.get("format") == "binary" or "contentMediaType" in schema:
        return "file"
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}), document, depth + 1)}"
    limits = [f"{word} {schema[key]}" for key, word in _LIMITS.items() if key in schema]
    return ", ".join(
        [{"string": "text", "integer": "whole number", "boolean": "true or false"}.get(kind, kind), *limits]
    )


_LIMITS = {"minimum": "from", "maximum": "to", "pattern": "like", "format": "as"}


def _default(schema: Mapping[str, Any]) -> str:
    value = schema.get("default")
    return "" if value is None or value == "" else str(value)
