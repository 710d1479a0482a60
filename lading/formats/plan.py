"""The plan: ``batch.json``, which files travel together.

Input and output: JSON of docs/formats.md. Invariant: a batch's id is a hash
of its entry list alone, so it stays while the boundaries stand, whatever
grows inside.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lading.errors import UsageError
from lading.files import replacing
from lading.formats.coverage import Coverage, decode_coverage, encode_coverage

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
    if isinstance(value, str) and value:
        return value
    if isinstance(value, dict) and set(value) == {"dir", "from", "to"}:
        return NameRange(value["dir"], value["from"], value["to"])
    raise ValueError(f"{value!r} is not an entry of a batch")


def encode_plan(plan: Plan) -> Iterator[str]:
    """Yield batch.json piece by piece, one batch to a line."""
    head: dict[str, Any] = {
        "format": FORMAT,
        "root": plan.root,
        "subdir": list(plan.subdir),
        "settings": dict(plan.settings),
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
    with replacing(path, sweep=True) as stream:
        stream.writelines(encode_plan(plan))


def read_plan(path: Path) -> Plan:
    """Return the plan; ``UsageError`` when it is missing, damaged or of another format."""
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise UsageError(f"{path} is missing; run: make batch.json") from error
    except ValueError as error:
        raise UsageError(f"{path} is not JSON ({error}); run: make batch.json") from error
    try:
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}, expected {FORMAT}")
        batches = tuple(
            Batch(item["id"], item["size"], item["files"], tuple(map(decode_entry, item["paths"])))
            for item in record["batches"]
        )
        for batch in batches:
            if batch.id != batch_id(batch.paths):
                raise ValueError(f"batch {batch.id} was edited: its id does not match its paths")
        coverage = decode_coverage(record["crawl"]) if "crawl" in record else None
        return Plan(
            record["root"], tuple(record["subdir"]), record["settings"], batches, tuple(record["oversize"]), coverage
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not a plan ({error}); run: make batch.json") from error
