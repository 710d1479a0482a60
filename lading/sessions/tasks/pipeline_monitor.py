"""What follows a computation of Code Ocean: wait for its end, keep its results as a data asset, tell of it.

Input: a computation, the settings of the pipeline monitor. Output: facts; a
data asset with the wanted name, target and permissions, and its record.
Invariant: a repeated call captures nothing twice: an asset has the name that
the computation gives it, and one of that name is taken as it is. A request to
cancel ends the waiting within a second.
"""

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from lading.core.errors import LadingError
from lading.sessions.services import codeocean, docdb, webhook
from lading.sessions.services.http import HttpClient
from lading.sessions.task_context import TaskContext
from lading.sessions.values import url

# Seconds between two questions, where the settings name none: those of the AIND monitor.
COMPUTATION_POLL, ASSET_POLL = 180.0, 10.0
_PERMISSIONS = {"everyone": "viewer"}


def follow(work: TaskContext, service: HttpClient, computation: str, monitor: Mapping[str, Any]) -> dict[str, object]:
    """Wait for a computation and capture its results; ``LadingError`` when it failed."""
    try:
        found = _wait(
            work,
            lambda: codeocean.computation(service, computation),
            monitor.get("computation_polling_interval", COMPUTATION_POLL),
            monitor.get("computation_timeout"),
            f"computation {computation}",
            lambda: codeocean.stop_computation(service, computation),
        )
        if _failed(found):
            raise LadingError(
                f"computation {computation} of Code Ocean failed ({found.get('end_status') or found.get('state')}); "
                "look at its log there, then run the list again"
            )
        facts: dict[str, object] = {}
        if monitor.get("capture_settings"):
            facts = _capture(work, service, found | {"id": computation}, monitor)
    except LadingError as error:
        _alert(work, monitor, f"{work.job.prefix}: {error}")
        raise
    _alert(work, monitor, f"{work.job.prefix}: computation {computation} is done")
    return facts


def _failed(found: Mapping[str, Any]) -> bool:
    ended_badly = found.get("end_status") in ("failed", "stopped")
    return found.get("state") == "failed" or ended_badly or found.get("exit_code") not in (None, 0)


def _wait(
    work: TaskContext,
    ask: Callable[[], dict[str, Any]],
    interval: float,
    timeout: float | None,
    what: str,
    give_up: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Ask until something is over; after ``timeout`` seconds, ``give_up`` and raise."""
    began = time.monotonic()
    while True:
        work.check_cancelled()
        found = ask()
        if found.get("state") in ("completed", "failed", "ready"):
            return found
        if timeout is not None and time.monotonic() - began > timeout:
            if give_up is not None:
                give_up()
            raise LadingError(f"{what} was not done after {timeout:g} s; raise its timeout in the monitor's settings")
        until = time.monotonic() + interval
        while (rest := until - time.monotonic()) > 0:
            work.check_cancelled()
            work.stop.wait(min(rest, 0.5))


def _capture(
    work: TaskContext, service: HttpClient, computation: Mapping[str, Any], monitor: Mapping[str, Any]
) -> dict[str, object]:
    """Keep the results of a computation as a data asset."""
    capture = monitor["capture_settings"]
    name = capture.get("name") or _name(work, computation, capture)
    body: dict[str, Any] = {
        "name": name,
        "mount": capture.get("mount") or name,
        "tags": capture.get("tags") or [],
        "source": {"computation": {"id": computation["id"]}},
    }
    for key in ("description", "custom_metadata"):
        if capture.get(key) is not None:
            body[key] = capture[key]
    aws = (capture.get("target") or {}).get("aws")
    if aws:
        # The folder is always the asset's own, whatever was asked for: two assets must not share one.
        body["target"] = {"aws": {**{key: aws[key] for key in aws if aws[key] is not None}, "prefix": name}}
    asset = codeocean.create_asset(service, body)
    ready = _wait(
        work,
        lambda: codeocean.asset(service, asset),
        monitor.get("data_asset_ready_polling_interval", ASSET_POLL),
        monitor.get("data_asset_ready_timeout"),
        f"data asset {asset}",
    )
    if ready.get("state") == "failed":
        raise LadingError(f"the data asset {name} ({asset}) could not be made; look at it in Code Ocean")
    permissions = capture.get("permissions")
    codeocean.permit(service, asset, _PERMISSIONS if permissions is None else permissions)
    if capture.get("docdb_settings"):
        _record(capture["docdb_settings"], name, asset, aws["bucket"] if aws else None)
    return {"captured": asset, "captured_name": name}


def _name(work: TaskContext, computation: Mapping[str, Any], capture: Mapping[str, Any]) -> str:
    """Return the name of a derived asset: that of its session, a suffix, and when the computation ended."""
    ended = computation.get("created"), computation.get("run_time", 0)
    known = all(isinstance(number, (int, float)) for number in ended)
    when = datetime.fromtimestamp(ended[0] + ended[1] if known else time.time(), UTC)
    local = when.astimezone(ZoneInfo(capture.get("process_name_suffix_tz") or "UTC"))
    suffix = capture.get("process_name_suffix") or "processed"
    return f"{work.job.prefix}_{suffix}_{local:%Y-%m-%d_%H-%M-%S}"


def _record(settings: Mapping[str, Any], name: str, asset: str, bucket: str | None) -> None:
    """Write the record of a captured asset."""
    place = f"s3://{bucket}/{name}" if bucket else f"s3://{settings['results_bucket']}/{asset}"
    docdb.upsert(
        HttpClient("the document database", url(settings["docdb_api_gateway"])),
        {"name": name, "location": place, "other_identifiers": {"Code Ocean": [asset]}},
        database=settings.get("docdb_database") or docdb.DATABASE,
        collection=settings.get("docdb_collection") or docdb.COLLECTION,
        version=settings.get("docdb_version") or "v1",
    )


def _alert(work: TaskContext, monitor: Mapping[str, Any], text: str) -> None:
    """Tell a channel, if one is named."""
    if not monitor.get("alert_url"):
        return
    try:
        webhook.post(monitor["alert_url"], {"text": text}, None)
    except LadingError as error:
        work.say(f"the alert could not be sent: {error}")  # no notice may end a job
