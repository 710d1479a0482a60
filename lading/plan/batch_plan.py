"""The plan: ``batch.json``, which files travel together.

Input and output: JSON of docs/reference/formats.md. Invariant: a batch's id is a hash
of its entry list alone, so it stays while the boundaries stand, whatever
grows inside.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write
from lading.core.bounded import PLAN_BYTES, JsonMembers, is_name, read_json
from lading.core.errors import UsageError
from lading.core.version import provenance
from lading.tree.coverage import Coverage, decode_coverage, encode_coverage

FORMAT = 1


@dataclass(frozen=True)
class NameRange:
    """The files directly in ``directory`` with ``first`` ≤ name ≤ ``last`` (as Python ``str``).

    With a slash behind both names it is the whole subdirectories between
    them: ``NameRange("nights/", "20240501/", "20240512/")``.
    """

    directory: str
    first: str
    last: str

    @property
    def of_directories(self) -> bool:
        """True when the range is over the subdirectories instead of the files."""
        return self.first.endswith("/")


# "dir/" is a whole subtree, "./" the whole tree, "dir/file" one file.
Entry = str | NameRange


@dataclass(frozen=True)
class Batch:
    """Files that are sent and reported together: ``size`` in bytes, ``files`` a count."""

    id: str
    size: int
    files: int
    paths: tuple[Entry, ...]


@dataclass(frozen=True)
class Plan:
    """A cut of the tree at ``root`` (absolute).

    ``subdir`` is what was selected, relative to root ("." for everything).
    ``settings`` holds what made the plan; ``settings["tree"]`` is the name of
    the tree file beside the plan and ``settings["tree_sha256"]`` its digest.
    ``oversize`` lists the paths of single files above the bound. ``coverage``
    says what of the selection is in no batch; None in plans of earlier editions.
    """

    root: str
    subdir: tuple[str, ...]
    settings: Mapping[str, Any]
    batches: tuple[Batch, ...]
    oversize: tuple[str, ...]
    coverage: Coverage | None = None


def batch_id(paths: Sequence[Entry]) -> str:
    """Return the id of a batch: 16 hex digits of the SHA-256 of its entries."""
    text = json.dumps([encode_entry(entry) for entry in paths], separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def encode_entry(entry: Entry) -> str | dict[str, str]:
    """Return an entry in its JSON form."""
    if isinstance(entry, str):
        return entry
    return {"dir": entry.directory, "from": entry.first, "to": entry.last}


def decode_entry(value: Any) -> Entry:
    """Return the entry of a JSON value; ``ValueError`` when it is none."""
    if type(value) is str and value and is_name(value):
        return value
    if type(value) is dict and value.keys() == {"dir", "from", "to"}:
        directory, first, last = texts = value["dir"], value["from"], value["to"]
        if all(type(text) is str and is_name(text) for text in texts) and directory.endswith("/"):
            # Both names are of files, or with a slash behind them both of directories.
            kinds = {text.count("/") for text in (first, last)}
            if first and last and (kinds == {0} or (kinds == {1} and first[-1] == last[-1] == "/")):
                return NameRange(directory, first, last)
    raise ValueError(f"{repr(value)[:80]} is not an entry of a batch")


def _decode_batch(value: Any) -> Batch:
    take = JsonMembers(value, "a batch")
    batch = Batch(take.text("id"), take.number("size"), take.number("files"), take.items("paths", decode_entry))
    if batch.id != batch_id(batch.paths):
        raise ValueError(f"batch {batch.id[:40]} was edited: its id does not match its paths")
    return batch


def _decode_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return what made a plan; ``ValueError`` when what is used of it again is of another type."""
    take = JsonMembers(settings, "settings")
    take.text("tree", "find.json")
    take.text_or_none("tree_sha256", None)
    take.texts("exclude", ())
    return settings


def encode_plan(plan: Plan) -> Iterator[str]:
    """Yield batch.json piece by piece, one batch to a line."""
    head: dict[str, Any] = {
        "format": FORMAT,
        "root": plan.root,
        "subdir": list(plan.subdir),
        "settings": dict(plan.settings),
        "written_by": provenance(),
    }
    if plan.coverage is not None:
        head["crawl"] = encode_coverage(plan.coverage)
    yield json.dumps(head)[:-1] + ', "batches": ['
    for number, batch in enumerate(plan.batches):
        record = {
            "id": batch.id,
            "size": batch.size,
            "files": batch.files,
            "paths": [encode_entry(entry) for entry in batch.paths],
        }
        yield (",\n" if number else "\n") + json.dumps(record, separators=(",", ":"))
    yield '\n], "oversize": ' + json.dumps(list(plan.oversize)) + "}\n"


def write_plan(path: Path, plan: Plan) -> None:
    """Write ``batch.json`` atomically."""
    with atomic_write(path, sweep=True) as stream:
        stream.writelines(encode_plan(plan))


def read_plan(path: Path) -> Plan:
    """Return the plan; ``UsageError`` when it is missing, damaged or of another format."""
    try:
        record = read_json(path, PLAN_BYTES)
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; run: make batch.json") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); run: make batch.json") from error
    try:
        take = JsonMembers(record)
        if record.get("format") != FORMAT:
            raise ValueError(f"format {record.get('format')!r}, expected {FORMAT}")
        coverage = decode_coverage(record["crawl"]) if "crawl" in record else None
        return Plan(
            take.text("root"),
            take.texts("subdir"),
            _decode_settings(take.object("settings")),
            take.items("batches", _decode_batch),
            take.texts("oversize"),
            coverage,
        )
    except ValueError as error:
        raise UsageError(f"{path} is not a plan ({error}); run: make batch.json") from error
