"""The document database of assets: one record per asset, written over by name.

Input: a record with its ``name``. Output: nothing; the store holds it.
Invariant: any number of equal calls leaves one record. Without a service the
store is a directory with one JSON file per asset.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lading.core.atomic import atomic_write
from lading.sessions.services.http import HttpClient

DATABASE, COLLECTION = "metadata_index", "data_assets"


def upsert(
    service: HttpClient, record: Mapping[str, Any], *, database: str, collection: str, version: str | None = None
) -> None:
    """Write a record over the one of equal name, or add it; ``version`` is that of the interface, if it has any."""
    body = {"filter": {"name": record["name"]}, "update": {"$set": dict(record)}, "upsert": True}
    start = f"{version}/" if version else ""
    service.request("POST", f"{start}{database}/{collection}/update_one", body, idempotent=True)


def write_local(directory: Path, record: Mapping[str, Any]) -> Path:
    """Write a record to ``<directory>/<name>.json`` and return the path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{record['name']}.json"
    with atomic_write(path) as stream:
        json.dump(record, stream, indent=1)
        stream.write("\n")
    return path
