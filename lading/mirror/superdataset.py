"""What the superdataset says of its subdatasets: one JSON file in its own tree.

Input: the superdataset's commit. Output: the record of each dataset, and the
file's bytes.
Invariant: the file changes only when a dataset does, so an unchanged mirror
makes no commit.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from lading.core.bounded import parse_json
from lading.core.errors import LadingError
from lading.mirror.dataset import MAIN
from lading.mirror.git.commands import resolve, run
from lading.mirror.layout import Dataset

RECORDS = b".mirror/datasets.json"


@dataclass(frozen=True)
class DatasetRecord:
    """One dataset as the last update left it.

    ``newest`` is the latest ``uploaded_at`` of its objects; ``whole`` is
    False when removals were left undone. ``manifest`` is the digest of the
    dataset's own manifest, "" where it has none of its own.
    """

    kind: str
    id: str
    commit: str
    objects: int
    bytes: int
    newest: str
    whole: bool
    manifest: str = ""


@dataclass(frozen=True)
class DatasetRecords:
    """All datasets by their path, and the digest of the settings that shaped them."""

    settings: str
    datasets: Mapping[str, DatasetRecord]

    def encode(self) -> bytes:
        """Return the file's bytes."""
        body = {
            "format": 1,
            "settings": self.settings,
            "datasets": {path: _members(record) for path, record in sorted(self.datasets.items())},
        }
        return json.dumps(body, indent=1).encode("ascii") + b"\n"


def _members(record: DatasetRecord) -> dict[str, object]:
    # What was added is left out where it says nothing: other mirrors' files stay as they are.
    return {name: value for name, value in asdict(record).items() if name != "manifest" or value}


def read_records(superdataset: Dataset, commit: str | None = None) -> DatasetRecords:
    """Return what a commit of the superdataset (default: main) records; empty before its first."""
    commit = commit or resolve(superdataset.repository, MAIN)
    if commit is None:
        return DatasetRecords("", {})
    try:
        body = parse_json(run(["cat-file", "blob", f"{commit}:{RECORDS.decode()}"], superdataset.repository))
        if body["format"] != 1:
            raise LadingError(f"{superdataset.repository}: its records have format {body['format']}, this reads 1")
        return DatasetRecords(
            body["settings"], {path: DatasetRecord(**record) for path, record in body["datasets"].items()}
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LadingError(f"{superdataset.repository}: {RECORDS.decode()} is damaged ({error})") from error
