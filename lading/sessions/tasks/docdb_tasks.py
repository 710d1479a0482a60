"""The record of the asset: into the document database, or a file where none is named.

Input: the staged metadata.nd.json, Code Ocean's asset ID. Output: one record.
Invariant: repeated calls leave one record.
"""

from pathlib import Path
from typing import Any

from lading.core.bounded import JsonMembers, parse_json
from lading.core.errors import LadingError
from lading.sessions import metadata
from lading.sessions.services import docdb
from lading.sessions.services.http import HttpClient
from lading.sessions.services.parameter_store import reveal
from lading.sessions.task_context import TaskContext
from lading.sessions.tasks.checks import store_of
from lading.sessions.values import secret, url


def _record(work: TaskContext) -> dict[str, Any]:
    record = _metadata(work) or {"name": work.job.prefix, "location": work.job.destination}
    asset = work.state.task("register_data_asset_to_codeocean").facts.get("asset")
    return record | ({"other_identifiers": {"Code Ocean": [asset]}} if asset else {})


def _metadata(work: TaskContext) -> dict[str, Any]:
    """Return the session's metadata.nd.json: the staged one, or that of the bucket where staging is gone."""
    path = work.staging / metadata.RECORD
    if path.exists():
        return metadata.read_json(path)
    if work.staging.is_dir():
        return {}
    key = f"{work.job.prefix}/{metadata.RECORD}"
    store = store_of(work)
    if key not in store.find([key]):
        return {}
    try:
        found = parse_json(b"".join(store.blocks(key)))
        JsonMembers(found)
    except ValueError as error:
        raise LadingError(f"s3://{work.job.s3_bucket}/{key} is not a metadata record ({error}); replace it") from error
    return dict(found)


def update(work: TaskContext) -> dict[str, object]:
    """Write the record."""
    settings = {**work.settings.site.get("docdb", {}), **work.options}
    record = _record(work)
    if "url" not in settings:
        return {"record": str(docdb.write_local(_records(work, settings.get("docdb_version")), record))}
    token = settings.get("api_token")
    headers = {}
    if token:
        headers["Authorization"] = f"Bearer {reveal(secret(token), work.settings.list_path.parent).get_secret_value()}"
    service = HttpClient("the document database", url(settings["url"]), headers)
    docdb.upsert(
        service,
        record,
        database=settings.get("database", docdb.DATABASE),
        collection=settings.get("collection", docdb.COLLECTION),
        version=settings.get("docdb_version"),
    )
    return {"record": record["name"], "docdb_version": settings.get("docdb_version")}


def _records(work: TaskContext, version: str | None) -> Path:
    """Return the directory of records where no database is named; those of another interface lie apart."""
    return work.place.records / version if version else work.place.records


def preview(work: TaskContext) -> dict[str, object]:
    """Say which record would be written."""
    work.say(f"would write the record of {work.job.destination} to the document database")
    return {}
