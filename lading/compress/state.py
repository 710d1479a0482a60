"""A job on disk: its plan, its units, its report.

Input: a source, a destination and options. Output: ``plan.json`` in the
state directory, ``compress.json`` when every unit is done.
Invariant: a plan is written once and belongs to one source, one destination
and one set of options; what disagrees with it is refused, never mixed. A
directory that is not known to be such a state is left alone. A job is done
when the marker of its last unit is in the state: no file of the destination
says so.
"""

import argparse
import functools
import importlib.metadata
import json
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lading.compress import inventory
from lading.compress.destination import Destination, open_destination
from lading.compress.hashing import plan_units
from lading.compress.job import (
    CompressionJob,
    CompressionUnit,
    Kind,
    Result,
    UnitRecord,
    check_working_name,
    digest,
    fold_digests,
    new_working_name,
)
from lading.compress.names import REPORT as REPORT
from lading.compress.passwords import is_noted
from lading.compress.sources import Source, SourceSurvey, scan_source
from lading.core.atomic import atomic_write
from lading.core.bounded import PLAN_BYTES, JsonMembers, decode, read_object
from lading.core.errors import ConsistencyError, UsageError
from lading.core.version import VERSION, provenance

FORMAT = 1
KIND = "compress-plan"
PLAN = "plan.json"
# An empty file that tells the state of a compression from any other directory.
MARK = "compress-state"
# The name of the destination's working directory, written before that is made.
WORKING = "working"
# The unit that ends a job: it runs the kind's ``finish`` and writes the report.
LAST = "finish"
# The fact of a plan that says with which password its archives are made: see ``passwords``.
PASSWORD = "password"  # noqa: S105 - a name
# Source files that the report itself lists; more have a file of their own beside it.
MOST_LISTED = 10_000
# And outputs: a recording of hours has one for each second of each stream.
MOST_OUTPUTS = 1_000
LIBRARIES = ("numpy", "zarr", "numcodecs", "pcodec", "wavpack-numcodecs", "tifffile", "h5py", "probeinterface")


@dataclass(frozen=True)
class Planned:
    """A job with its units; ``fingerprint`` is the source's when it was planned.

    recorded  False for a plan of an earlier version, whose units kept no record of what they read
    hashing   units that read whole what others read in parts
    """

    job: CompressionJob
    units: tuple[CompressionUnit, ...]
    fingerprint: str
    planned_at: str
    recorded: bool = True
    hashing: tuple[CompressionUnit, ...] = ()


def state_directory(destination: str, given: str | None) -> Path:
    """Return where a job keeps its state: beside the destination, outside what is uploaded."""
    if given:
        return Path(given).absolute()
    if "://" in destination:
        name = destination.partition("://")[2].strip("/").replace("/", "_")
        return Path(f"{name}.state").absolute()
    path = Path(destination).absolute()
    return path.with_name(f"{path.name}.state")


def open_state(state: Path, source: Path, destination: str) -> None:
    """Make the state directory, or take up the one that is there.

    Raises ``UsageError`` when the directory is something else's: its files
    might have the names of ours.
    """
    above = os.path.realpath(state)
    below = os.path.realpath(source)
    if os.path.commonpath([above, below]) in (above, below):
        raise UsageError(f"the state directory {state} and the source {source} overlap; give another --state")
    if "://" not in destination and os.path.commonpath([above, out := os.path.realpath(destination)]) == out:
        raise UsageError(f"the state directory {state} is inside the destination {destination}; give another --state")
    state.mkdir(parents=True, exist_ok=True)
    # In this order: another launch may be making it right now.
    used = any(state.iterdir())
    if used and not (state / MARK).exists() and not _is_plan(state / PLAN):
        raise UsageError(
            f"{state} holds other files than the state of a compression; "
            "give another --state, or another destination where it has that name"
        )
    (state / MARK).touch()


def _is_plan(path: Path) -> bool:
    try:
        return bool(read_object(path, PLAN_BYTES).get("kind") == KIND)
    except (OSError, ValueError):
        return False


def working_name(state: Path, source: Path) -> str:
    """Return the name of the destination's working directory, writing it down when there is none."""
    path = state / WORKING
    if path.exists():
        try:
            return check_working_name(path.read_text(encoding="utf-8").strip())
        except ValueError as error:
            raise UsageError(f"{path} is damaged; remove {state} and the destination to start over") from error
    while os.path.lexists(source / (name := new_working_name())):
        continue
    with atomic_write(path) as stream:
        stream.write(f"{name}\n")
    return name


def read_report(state: Path, destination: str) -> bytes | None:
    """Return the bytes of a job's report, None when it has none.

    It is in the state; of a job that an earlier version did, in the destination only.
    """
    paths = [state / REPORT] if "://" in destination else [state / REPORT, Path(destination) / REPORT]
    for path in paths:
        try:
            return path.read_bytes()
        except FileNotFoundError:
            continue
    return None


def prepare(kind: Kind, job: CompressionJob, state: Path) -> Planned:
    """Return the plan of a job, making it if there is none.

    Raises ``ConsistencyError`` when source, destination or options are not those
    of the plan, ``UsageError`` when the destination holds files of others.
    """
    seen = scan_source(job.source)
    path = state / PLAN
    if path.exists():
        planned = fill_options(read_plan(path), kind)
        check_same_job(planned, job, seen.fingerprint, state)
        refuse_other_password(planned, kind.secret(job), state)
        refused = set(read_refusals(state))
        new = refused - set(planned.job.facts.get("refused", ()))
        if not new:
            return planned
        job = CompressionJob(**{**vars(planned.job), "facts": {"refused": sorted(refused), "redo": sorted(new)}})
        return make_plan(kind, job, seen, path)
    state.mkdir(parents=True, exist_ok=True)
    job = CompressionJob(**{**vars(job), "working": working_name(state, job.source)})
    place = open_destination(job)
    if not (state / "planning").exists() and place.is_occupied():
        raise UsageError(f"{job.destination} is not empty and was not made by this job; give another destination")
    if place.root is not None:
        place.root.mkdir(parents=True, exist_ok=True)
    (state / "planning").touch()
    # Markers of a plan that is gone may name other blocks than the ids of this one.
    shutil.rmtree(state / "done", ignore_errors=True)
    record = make_plan(kind, job, seen, path)
    (state / "planning").unlink()
    return record


def make_plan(kind: Kind, job: CompressionJob, seen: SourceSurvey, path: Path) -> Planned:
    """Let the data kind plan a job, and write the plan down."""
    job = CompressionJob(**{**vars(job), "links": seen.links})
    plan = kind.plan(job)
    hashing = tuple(plan_units(Source(job.source), plan.partly))
    check_units((*plan.units, *hashing))
    job = CompressionJob(**{**vars(job), "facts": plan.facts})
    record = Planned(job, plan.units, seen.fingerprint, now(), hashing=hashing)
    write_plan(path, record)
    return record


def refuse_unrecorded(planned: Planned, state: Path) -> None:
    """Raise ``ConsistencyError`` when work is left in a plan of an earlier version."""
    if not planned.recorded:
        raise ConsistencyError(
            f"{state} was begun by an earlier version of Lading, which kept no record of the files that it read; "
            f"remove it and the destination {planned.job.destination} to start over"
        )


def check_same_job(planned: Planned, job: CompressionJob, seen: str, state: Path) -> None:
    """Raise ``ConsistencyError`` unless a job is the planned one over an unchanged source."""
    old = planned.job
    for what, before, after in (
        ("source", str(old.source), str(job.source)),
        ("destination", old.destination, job.destination),
        ("kind", old.kind, job.kind),
        ("options", json.dumps(old.options, sort_keys=True), json.dumps(job.options, sort_keys=True)),
    ):
        if before != after:
            raise ConsistencyError(
                f"{state / PLAN} was made with {what} {before}, not {after}; "
                f"repeat that, or remove {state} and the destination to start over"
            )
    if planned.fingerprint != seen:
        raise ConsistencyError(
            f"{job.source} changed since {planned.planned_at}, when it was planned; "
            f"remove {state} and the destination to start over"
        )


def refuse_other_password(planned: Planned, password: str | None, state: Path) -> None:
    """Raise ``ConsistencyError`` unless what was done has the password that is given now."""
    noted = planned.job.facts.get(PASSWORD)
    if password is None and noted is None:
        return
    try:
        if password is not None and noted is not None and is_noted(str(noted), password):
            return
        what = "was made with another password" if noted else "does not say with which password it was made"
    except ValueError as error:
        what = f"is damaged: {error}"
    raise ConsistencyError(
        f"{state / PLAN} {what}; give that one, or remove {state} and the destination {planned.job.destination} "
        "to start over"
    )


def write_refusal(state: Path, what: str) -> None:
    """Record that something must be planned otherwise."""
    directory = state / "refused"
    directory.mkdir(exist_ok=True)
    with atomic_write(directory / digest(what.encode())) as stream:
        stream.write(what)


def read_refusals(state: Path) -> list[str]:
    """Return everything that was ever refused."""
    directory = state / "refused"
    files = sorted(directory.iterdir()) if directory.is_dir() else []
    return [path.read_text(encoding="utf-8") for path in files if not path.name.startswith(".")]


def check_units(units: Sequence[CompressionUnit]) -> None:
    """Refuse a plan whose units could not be told apart on disk."""
    ids = [unit.id for unit in units]
    if len(set(ids)) != len(ids) or LAST in ids or any(len(one) > 200 for one in ids):
        raise ValueError("a kind planned units with equal, reserved or overlong ids")


def all_units(planned: Planned) -> tuple[CompressionUnit, ...]:
    """Return the units of a plan and the one that ends it."""
    return (*planned.units, *planned.hashing, CompressionUnit(LAST, 0, {}, ("*",)))


def write_plan(path: Path, planned: Planned) -> None:
    """Write ``plan.json``, one unit a line."""
    job = planned.job
    head = {
        "format": FORMAT,
        "kind": KIND,
        "lading": VERSION,
        "written_by": provenance(),
        "planned_at": planned.planned_at,
        "fingerprint": planned.fingerprint,
        "job": {**vars(job), "source": str(job.source)},
    }
    with atomic_write(path) as stream:
        stream.write(json.dumps(head)[:-1])
        for name, units in (("units", planned.units), ("hashing", planned.hashing)):
            stream.write(f', "{name}": [')
            for number, unit in enumerate(units):
                stream.write((",\n" if number else "\n") + json.dumps(asdict(unit), separators=(",", ":")))
            stream.write("\n]")
        stream.write("}\n")


def read_plan(path: Path) -> Planned:
    """Return the plan; ``UsageError`` when it is damaged or of another format."""
    try:
        take = JsonMembers(read_object(path, PLAN_BYTES))
        if take.number("format") != FORMAT or take.text("kind") != KIND:
            raise ValueError(f"it is not of format {FORMAT}")
        recorded = "working" in take.object("job")
        job = decode(CompressionJob, take.object("job"))
        check_working_name(job.working)
        units, hashing = (
            take.items(name, functools.partial(decode, CompressionUnit), ()) for name in ("units", "hashing")
        )
        return Planned(job, units, take.text("fingerprint"), take.text("planned_at"), recorded, hashing)
    except ValueError as error:
        raise UsageError(
            f"{path} is not a plan of this program ({error}); remove {path.parent} and the destination to start over"
        ) from error


def fill_options(planned: Planned, kind: Kind) -> Planned:
    """Return the plan with the options that its kind got since then, at their defaults.

    So the default of a new option must be what was done before there was one.
    """
    parser = argparse.ArgumentParser(add_help=False)
    kind.add_options(parser)
    options = {**vars(parser.parse_args([])), **planned.job.options}
    return replace(planned, job=replace(planned.job, options=options))


def encode_result(result: Result) -> dict[str, Any]:
    """Return a result as it lies in its marker."""
    return asdict(result)


def decode_record(record: Mapping[str, Any]) -> UnitRecord:
    """Return the marker of a record; ``ValueError`` when it is none."""
    take = JsonMembers(record, "a marker")
    return UnitRecord(
        take.text("item"), take.text("worker"), take.real("seconds"), decode(Result, record.get("result"), "its result")
    )


def outputs_stand(place: Destination, marker: UnitRecord, *, recheck: bool = False) -> bool:
    """Tell whether a done unit's files still have the sizes they had; with ``recheck`` the same bytes."""
    for output in marker.result.outputs:
        if place.size(output.path) != output.size:
            return False
        if recheck and output.hash and place.size_and_digest(output.path)[:2] != (output.size, output.hash):
            return False
    return True


def report(
    planned: Planned,
    markers: Sequence[UnitRecord],
    facts: Mapping[str, Any],
    listed: Mapping[str, Any],
    lacking: Sequence[str],
) -> dict[str, Any]:
    """Return what ``compress.json`` says of a finished job.

    ``listed`` has its list of source files, or what stands for it, and what stands for that of outputs; ``lacking``
    are the files that no output carries.
    """
    job = planned.job
    facts = dict(facts)
    accounts = inventory.report(job.facts, {name: facts.pop(name, ()) for name in inventory.KEYS})
    bytes_in = sum(marker.result.bytes_in for marker in markers)
    bytes_out = sum(marker.result.bytes_out for marker in markers)
    codecs: dict[str, dict[str, int]] = {}
    for marker in markers:
        sums = codecs.setdefault(marker.result.codec, {"units": 0, "bytes_in": 0, "bytes_out": 0})
        sums["units"] += 1
        sums["bytes_in"] += marker.result.bytes_in
        sums["bytes_out"] += marker.result.bytes_out
    return {
        "format": FORMAT,
        "kind": "compress",
        "data": job.kind,
        "source": str(job.source),
        "destination": job.destination,
        "options": dict(job.options),
        "planned_at": planned.planned_at,
        "finished_at": now(),
        "units": len(markers) + len(planned.hashing),
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "ratio": round(bytes_in / bytes_out, 4) if bytes_out else None,
        "seconds": round(sum(marker.seconds for marker in markers), 3),
        "codecs": codecs,
        "source_checksum": "xxh3-128/sha256:" + fold_digests(marker.result.source_hash for marker in markers),
        "decoded_checksum": "xxh3-128/sha256:" + fold_digests(marker.result.decoded_hash for marker in markers),
        "source_fingerprint": planned.fingerprint,
        "renamed": dict(planned.job.facts.get("renamed", {})),
        **listed,
        "not_carried": list(lacking[:MOST_LISTED]),
        "not_carried_files": len(lacking),
        **accounts,
        "facts": facts,
        "versions": versions(),
        "written_by": provenance(),
    }


def versions() -> dict[str, str]:
    """Return the versions of everything that touched the data."""
    found = {"lading": VERSION, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def now() -> str:
    """Return the time as ISO 8601 UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def encode_report(record: Mapping[str, Any]) -> bytes:
    """Return the bytes of ``compress.json``."""
    return json.dumps(record, indent=1).encode() + b"\n"


def remove_attempts(state: Path) -> None:
    """Delete the claims of launches that are over."""
    shutil.rmtree(state / "attempts", ignore_errors=True)
