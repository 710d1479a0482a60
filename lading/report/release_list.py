"""The list of releases: ``releases.yaml``, or a directory whose folders are releases.

Input: the file, or the directory with ``fleet.yaml`` (the settings of all, may be missing) and in each folder
``release.yaml`` (may be missing too: such a folder is looked at, never run). Output: ``FleetSettings``.
Invariant: all errors at once, each with its file, line and column; an unknown key is one. Nothing is guessed: what a
release does not say, ``defaults`` say, or it has none. A secret may stand in the environment or in a file of its own.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lading.core.command_line import parse_duration, parse_size
from lading.core.errors import UsageError, usage_errors
from lading.core.progress import counted
from lading.core.yaml_file import Document, YamlError, read_yaml
from lading.journal.stage_result import MARKS
from lading.objectstore.keys import parse_key_prefix
from lading.objectstore.rate_schedule import parse_bandwidth
from lading.report.fleet import FleetLimits, FleetRelease
from lading.report.proof_age import DAY

LIST_BYTES, LIST_NODES = 64 << 20, 2_000_000  # of a list of tens of thousands of releases
MOST_FAULTS = 50
FLEET_FILE, RELEASE_FILE = "fleet.yaml", "release.yaml"
LATE_AFTER = 2.0  # times ``every``, where no limit is given
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Stage = Literal["find", "batch", "upload", "verify", "scrub", "mirror"]
Trail = tuple[str | int, ...]


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _by_stage(value: object) -> object:
    """A single duration holds for the stages that send: a crawl a night does not mean a scrub a night."""
    return value if isinstance(value, dict) else {"": value}


def _minute(value: object) -> object:
    """YAML 1.1 reads 22:00 without quotes as 22 · 60."""
    if type(value) is int and 0 <= value < 1440:
        return value
    match = _TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'{value!r} is not a time of day; write it like "22:00"')
    return int(match[1]) * 60 + int(match[2])


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError("must be letters, digits, dots, dashes and underscores, and begin with a letter or digit")
    return value


def _bucket(value: str) -> str:
    try:
        return str(parse_key_prefix(value))
    except UsageError:
        raise ValueError(f"{value!r} is not a bucket; write it like s3://name or s3://name/prefix") from None


def _bandwidth(value: object) -> object:
    try:
        parse_bandwidth(str(value))
    except UsageError as error:
        raise ValueError(str(error)) from None
    return str(value)


def _size(value: object) -> object:
    try:
        return parse_size(value) if isinstance(value, str) else value
    except UsageError as error:
        raise ValueError(str(error)) from None


def _words(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds), Field(gt=0)]
Minute = Annotated[int, BeforeValidator(_minute)]
PlainName = Annotated[str, AfterValidator(_name)]
Bucket = Annotated[str, AfterValidator(_bucket)]
Bandwidth = Annotated[str, BeforeValidator(_bandwidth)]
ByteCount = Annotated[int, BeforeValidator(_size), Field(gt=0)]
Every = Annotated[dict[Stage | Literal[""], Seconds], BeforeValidator(_by_stage)]
Texts = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_words)]
Workers = Annotated[int, Field(ge=1, le=512)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LimitsEntry(_Entry):
    """When a release is late, and what it may take.

    late      since a stage's last success: one duration for the stages that send, or one by stage
    scrubbed  age of the oldest proof by a scrub; mirrored: of the mirror; locked: of one run's lock
    time      a run of upload begins nothing after this long; bandwidth, workers: of its upload
    """

    late: Every | None = None
    scrubbed: Seconds | None = None
    mirrored: Seconds | None = None
    locked: Seconds = DAY
    time: Seconds | None = None
    bandwidth: Bandwidth | None = None
    workers: Workers | None = None


class ReleaseEntry(_Entry):
    """One release, by the keys of the list; docs/reference/fleet.md explains each."""

    name: PlainName
    folder: Path
    root: str = ""
    release: str = ""
    subdir: str = ""
    bucket: Bucket | None = None
    prefix: str = ""
    endpoint: str = ""
    remap: dict[str, str] = {}
    min_batch: ByteCount | None = None
    max_batch: ByteCount | None = None
    scrub_period: Seconds | None = None
    scrub_bytes: ByteCount | None = None
    mirror_config: str = ""
    stages: tuple[Stage, ...] = ("find", "batch", "upload", "verify")
    flags: dict[Stage, tuple[str, ...]] = {}
    every: Every | None = None
    after: Minute | None = None
    until: Minute | None = None
    days: Annotated[tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...], BeforeValidator(_words)] = ()
    limits: LimitsEntry = LimitsEntry()
    contacts: Texts = ()
    notify: Texts = ()
    ping: str = ""

    @model_validator(mode="after")
    def _complete(self) -> "ReleaseEntry":
        faults = []
        if self.stages and self.bucket is None:
            faults.append("bucket is missing; write it like s3://name/prefix")
        if self.stages and not self.root:
            faults.append("root is missing, the directory that maps to the top of the bucket")
        if self.root and not os.path.isabs(self.root):
            faults.append(f"root {self.root!r} is not an absolute path")
        if self.until is not None and self.after is None:
            faults.append("until needs after")
        if len(set(self.stages)) != len(self.stages):
            faults.append("stages names one twice")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def place(self) -> str:
        """The bucket with the prefix, as a stage takes it."""
        inner = self.prefix.strip("/")
        return f"{(self.bucket or '').rstrip('/')}/{inner}" if inner else (self.bucket or "").rstrip("/")

    def period(self, stage: str) -> float | None:
        """Return after how long a stage runs again; None: only when an earlier one did, or it failed."""
        every = self.every or {}
        if stage in every:
            return every[stage]
        return every.get("") if stage not in ("scrub", "mirror") else None

    def look(self, since: float | None = None) -> FleetRelease:
        """Return the release as a look at it takes it."""
        limits = self.limits
        late: dict[str, float] = {}
        for stage in self.stages:
            given = limits.late or {}
            period = self.period(stage)
            most = given.get(stage, given.get("") if stage not in ("scrub", "mirror") else None)
            if most is None and limits.late is None and period is not None:
                most = LATE_AFTER * period
            if most is not None:
                late[stage] = most
        return FleetRelease(
            self.name, self.folder, self.place, self.root, self.stages,
            FleetLimits(late, limits.scrubbed, limits.mirrored, limits.locked), self.contacts, since,
        )  # fmt: skip


class FleetFile(_Entry):
    """The settings of all releases: how many at once, and what they share."""

    releases: tuple[dict[str, Any], ...] = ()
    defaults: dict[str, Any] = {}
    at_once: int = Field(default=2, ge=1, le=1000)
    bandwidth: Bandwidth | None = None
    workers: int | None = Field(default=None, ge=1, le=100_000)
    executor: Literal["local", "slurm"] = "local"
    sbatch_flags: Texts = ()
    notify: Texts = ()
    ping: str = ""
    digest: str = ""

    @model_validator(mode="after")
    def _digest(self) -> "FleetFile":
        if self.digest:
            parse_digest(self.digest)
        return self


def parse_digest(text: str) -> tuple[int, int]:
    """Return weekday (0 is Monday) and minute of ``mon 08:00``; ``ValueError`` for anything else."""
    day, _, time = text.strip().lower().partition(" ")
    if day not in _DAYS:
        raise ValueError(f'digest {text!r} is not a day and a time; write it like "mon 08:00"')
    return _DAYS.index(day), int(str(_minute(time.strip())))


@dataclass(frozen=True)
class FleetSettings:
    """Everything that the list says; ``home``: where the fleet keeps its own files."""

    path: Path
    home: Path
    shared: FleetFile = field(default_factory=FleetFile)
    releases: tuple[ReleaseEntry, ...] = ()

    @property
    def logs(self) -> Path:
        """Where the last runs said what they did: a directory for each release."""
        return self.home / "logs"

    def look(self, seen: Mapping[str, float] | None = None) -> list[FleetRelease]:
        """Return the releases as a look at them takes them; ``seen``: when each was seen first."""
        return [entry.look((seen or {}).get(entry.name)) for entry in self.releases]

    def only(self, names: Sequence[str]) -> "FleetSettings":
        """Return the settings with some of the releases; ``UsageError`` for a name that is not in the list."""
        known = {entry.name for entry in self.releases}
        if missing := [name for name in names if name not in known]:
            raise UsageError(f"{', '.join(missing)} is not a release of {self.path}; lading fleet status lists them")
        return replace(self, releases=tuple(entry for entry in self.releases if not names or entry.name in names))


def read_releases(path: Path) -> FleetSettings:
    """Return the settings of a list or directory; ``UsageError`` with a line for every error."""
    if path.is_dir():
        settings, faults = _read_directory(path)
    else:
        settings, faults = _read_list(path)
    names = [entry.name for entry in settings.releases]
    folders = [os.path.abspath(entry.folder) for entry in settings.releases]
    for what, values in (("name", names), ("folder", folders)):
        if len(set(values)) != len(values):
            twice = sorted({value for value in values if values.count(value) > 1})
            faults.append(f"{path}: the {what} {', '.join(twice)} is given to more than one release")
    if faults:
        unique = list(dict.fromkeys(faults))
        more = [f"{path}: {counted(len(unique) - MOST_FAULTS, 'more error')}"] if len(unique) > MOST_FAULTS else []
        raise usage_errors([*unique[:MOST_FAULTS], *more])
    return settings


def _load(path: Path, faults: list[str]) -> Document:
    """Return a document that is a mapping; an empty one where it is none."""
    try:
        document = read_yaml(path, most_bytes=LIST_BYTES, most_nodes=LIST_NODES)
    except YamlError as error:
        faults.append(f"{path}{error.where}: {error.what}")
        return Document({})
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        advice = "lading fleet add makes one; docs/reference/fleet.md shows its keys" if missing else "make it readable"
        raise UsageError(f"{path} cannot be read ({error.strerror}); {advice}") from error
    faults += [f"{path}, line {line}: {name} is given twice" for line, name in document.twice]
    if document.value is None:
        document.value = {}
    if not isinstance(document.value, dict):
        faults.append(f"{path}, line 1: must be a mapping of settings, key: value")
        document.value = {}
    return document


def _read_list(path: Path) -> tuple[FleetSettings, list[str]]:
    faults: list[str] = []
    document = _load(path, faults)
    shared = _shared(path, document, faults)
    base = path.absolute().parent
    entries = []
    for number, given in enumerate(shared.releases):
        entry = _entry(path, document, ("releases", number), given, shared.defaults, base, faults)
        entries += [entry] if entry else []
    home = path.with_name(f"{path.name.removesuffix('.yaml').removesuffix('.yml')}.fleet").absolute()
    return FleetSettings(path, home, shared, tuple(entries)), faults


def _read_directory(path: Path) -> tuple[FleetSettings, list[str]]:
    faults: list[str] = []
    document = _load(path / FLEET_FILE, faults) if (path / FLEET_FILE).exists() else Document({})
    shared = _shared(path / FLEET_FILE, document, faults)
    if shared.releases:
        faults.append(f"{path / FLEET_FILE}: releases of a directory are its folders; move this list to a file")
    entries = []
    for folder, names in _folders(path):
        if RELEASE_FILE in names:
            own = _load(folder / RELEASE_FILE, faults)
            entry = _entry(folder / RELEASE_FILE, own, (), own.value, shared.defaults, folder, faults, folder)
        elif names.intersection(MARKS):
            entry = ReleaseEntry.model_construct(name=folder.name, folder=folder, stages=())
        else:
            continue
        entries += [entry] if entry else []
    return FleetSettings(path, (path / ".fleet").absolute(), shared, tuple(entries)), faults


def _folders(path: Path) -> Iterator[tuple[Path, set[str]]]:
    """Yield the folders of a directory with the names in each, in order; hidden ones are none."""
    try:
        names = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{path} cannot be listed ({error.strerror}); make it readable") from error
    for name in names:
        try:
            yield path.absolute() / name, set(os.listdir(path / name))
        except OSError:
            yield path.absolute() / name, {MARKS[0]}  # the look at it says what is wrong


def _shared(path: Path, document: Document, faults: list[str]) -> FleetFile:
    try:
        return FleetFile.model_validate(document.value)
    except ValidationError as error:
        faults += _describe(path, document, (), error)
        return FleetFile()


def _entry(
    path: Path,
    document: Document,
    trail: Trail,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    base: Path,
    faults: list[str],
    folder: Path | None = None,
) -> ReleaseEntry | None:
    """Return one release: what it says over what the defaults say; None after an error."""
    merged = {**defaults, **given}
    for name in ("limits", "flags", "every"):
        if name in defaults and isinstance(given.get(name), dict):
            before = _by_stage(defaults[name]) if name == "every" else defaults[name]
            merged[name] = {**before, **given[name]} if isinstance(before, dict) else given[name]
    if folder is not None:
        merged.setdefault("name", folder.name)
        merged.setdefault("folder", str(folder))
    try:
        entry = ReleaseEntry.model_validate(merged)
    except ValidationError as error:
        faults += _describe(path, document, trail, error)
        return None
    return entry.model_copy(update={"folder": base / entry.folder})


def _describe(path: Path, document: Document, trail: Trail, error: ValidationError) -> list[str]:
    return [f"{_place(path, document, trail, fault['loc'])}: {_reason(fault)}" for fault in error.errors()]


def _place(path: Path, document: Document, trail: Trail, location: Trail) -> str:
    """Return where an error is: at the key itself, in the defaults, or at the release."""
    tries = [(*trail, *location[:length]) for length in range(len(location), 0, -1)]
    tries += [("defaults", *location[:length]) for length in range(len(location), 0, -1)] + [trail]
    for found in tries:
        if found in document.lines:
            return f"{path}, line {document.lines[found]}, column {document.columns[found]}"
    return str(path)


def _reason(fault: Any) -> str:
    name = ".".join(str(part)[:80] for part in fault["loc"] if part != "")
    if fault["type"] == "extra_forbidden":
        return f"unknown key {name}; docs/reference/fleet.md lists the keys"
    if fault["type"] == "missing":
        return f"{name} is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")[:500]
    return f"{name}: {message[:1].lower()}{message[1:]}" if name else message
