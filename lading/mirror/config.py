"""The mirror's settings: one YAML file, every fault of it with its line.

Input: the file and the overrides of the command line. Output: ``Config``.
Invariant: an unknown key, a key given twice or two keys that contradict each
other are refused, all at once; the keys of docs/reference/mirror.md are the fields here.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lading.core.command_line import parse_size
from lading.core.errors import UsageError, usage_errors
from lading.core.progress import counted
from lading.core.yaml_file import YamlError, read_yaml

MOST_FAULTS = 50
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
_GIN = "https://gin.g-node.org/api/v1"
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def _regex(value: str | None) -> str | None:
    if value is not None:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from None
    return value


def _inside(value: str) -> str:
    if not value or Path(value).is_absolute() or ".." in Path(value).parts:
        raise ValueError("must be a path below backup_root")
    return value


def _split(value: str) -> str:
    if value.startswith("regex="):
        _regex(value.removeprefix("regex="))
    elif value not in ("job", "top") and not re.fullmatch(r"depth=[1-9]\d?", value):
        raise ValueError("must be job, top or depth=N, or regex=PATTERN")
    return value


def _size(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_size(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


def _underscore(value: object) -> object:
    return "asset-checksum" if value == "asset_checksum" else value


def _no_password(value: str) -> str:
    # Without the address itself: what is refused must not be shown either.
    if re.search(r"://[^/?#]*:[^/?#]*@", value):
        raise ValueError(
            "has a password, which git would show in process lists and keep in configs; take it out and give it to "
            "git by a credential helper or an SSH key"
        )
    return value


def _api(value: str) -> str:
    host = urlsplit(value).hostname or ""
    if not value.startswith("https://") and not (host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host)):
        raise ValueError("must begin with https://, since the token goes there")
    return value


Regex = Annotated[str, AfterValidator(_regex)]
Inside = Annotated[str, AfterValidator(_inside)]
Shown = Annotated[str, AfterValidator(_no_password)]
Address = Annotated[Shown, Field(min_length=1)]
Size = Annotated[int, BeforeValidator(_size), Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Remote(_Part):
    """A git-annex special remote: the target of populate."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    type: str = Field(pattern=r"^[A-Za-z0-9]+$")
    options: dict[str, str] = {}


class MirrorLocation(_Part):
    """Where datasets of one kind live, locally and on GitHub."""

    path: Inside
    github_org: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9-]*$")
    remote: Remote | None = None


class Candidate(_Part):
    """One place to clone subdatasets from; ``cost`` 0 to 999, without one DataLad takes 700."""

    name: str
    url: Address
    cost: int | None = Field(default=None, ge=0, le=999)

    @model_validator(mode="after")
    def _plain_name(self) -> "Candidate":
        # DataLad reads three leading digits of the name as the cost.
        if not _NAME.fullmatch(self.name) or re.match(r"\d{3}", self.name):
            raise ValueError(f"name {self.name!r} must be letters, digits, dots and dashes, without a leading cost")
        return self


class Sibling(_Part):
    """A git host or RIA store to push every dataset to; the ``url`` of a host may hold {id}, {name} and {path}.

    ``candidate`` False keeps its address out of the datasets: clones do not look there.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")
    url: Address
    candidate: bool = True

    @model_validator(mode="after")
    def _writable(self) -> "Sibling":
        store = self.url.removesuffix("#{id}")
        if self.url.startswith("ria+") and not re.fullmatch(r"ria\+(file:///|ssh://[^/{}#-][^/{}#]*/)[^{}#?]+", store):
            raise ValueError(f"{self.url!r}: write a RIA store as ria+file:///path or ria+ssh://host/path")
        if self.url.startswith("-"):
            raise ValueError(f"{self.url!r} is not an address")
        return self


class HostedOrganisation(_Part):
    """An organisation on a git host with an API, which makes the repositories; the token is in ``<NAME>_TOKEN``.

    ``candidate`` False keeps its address out of the datasets: clones do not look there.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")
    kind: Literal["forgejo", "gitea", "gin", "gogs"]
    org: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    api: Annotated[Address, Field(pattern=r"^https?://[^/]"), AfterValidator(_api)] | None = None
    candidate: bool = True

    @model_validator(mode="after")
    def _has_an_address(self) -> "HostedOrganisation":
        if self.api is None and self.kind != "gin":
            raise ValueError("api is missing: give the address of the API, which ends in /api/v1")
        return self

    @property
    def address(self) -> str:
        """The address of the API."""
        return (self.api or _GIN).rstrip("/")


class Text(_Part):
    """Which files go into git itself: names that match a pattern and are not larger than ``max_size`` bytes."""

    patterns: tuple[str, ...] = ("README*", "LICENSE*", "CHANGES*", "*.json", "*.md")
    max_size: Size = 64_000


class Config(_Part):
    """Every setting of the mirror; docs/reference/mirror.md explains each."""

    dandi_instance: str = "dandi"
    s3bucket: str | None = None
    s3endpoint: Annotated[Address, Field(pattern=r"^https?://[^/]")] | None = None
    content_url_regex: Regex | None = None
    datasets: MirrorLocation = MirrorLocation(path="datasets")
    zarrs: MirrorLocation | None = None
    backup_root: str = "."
    asset_filter: Regex | None = None
    jobs: int = Field(default=10, ge=1, le=512)
    workers: int = Field(default=5, ge=1, le=128)
    force: Literal["assets-update"] | None = None
    force_push: bool = False
    topics: tuple[str, ...] = ("datalad", "git-annex")
    archive_vanished: bool = True
    enable_tags: bool = True
    gc_assets: bool = False
    mode: Literal["timestamp", "force", "verify"] = "timestamp"
    zarr_mode: Annotated[Literal["timestamp", "checksum", "asset-checksum", "force"], BeforeValidator(_underscore)] = (
        "timestamp"
    )
    access: Literal["public", "private"] = "public"
    private_stores: tuple[Inside, ...] = ()
    split_by: Annotated[str, AfterValidator(_split)] = "job"
    # Of settings written for earlier versions, where "portable" gave the same datasets more slowly.
    engine: Literal["fast", "portable"] = "fast"
    candidates: tuple[Candidate, ...] = ()
    properties: dict[str, Shown] = {}
    siblings: tuple[Sibling, ...] = ()
    hosts: tuple[HostedOrganisation, ...] = ()
    text: Text = Text()
    max_removed: float = Field(default=0.25, ge=0, le=1)
    version: str | None = None
    manifest: str = "manifest.jsonl.zst"
    github_api: Annotated[Address, Field(pattern=r"^https?://[^/]"), AfterValidator(_api)] = "https://api.github.com"

    @model_validator(mode="after")
    def _agreement(self) -> "Config":
        faults = []
        if self.zarrs and bool(self.datasets.github_org) != bool(self.zarrs.github_org):
            faults.append("datasets.github_org and zarrs.github_org must be both set or both unset")
        labels = [f"{'' if c.cost is None else f'{c.cost:03d}'}{c.name}".lower() for c in self.candidates]
        faults += [f"candidate {label!r} is given twice" for label in sorted(set(labels)) if labels.count(label) > 1]
        names = [*(sibling.name for sibling in self.siblings), *(host.name for host in self.hosts)]
        faults += [f"sibling {name!r} is given twice" for name in sorted(set(names)) if names.count(name) > 1]
        remotes = {place.remote.name for place in (self.datasets, self.zarrs) if place and place.remote}
        faults += [f"{name!r} is both a sibling and a remote of populate" for name in sorted(remotes & set(names))]
        # What the mirror calls its own remotes in every repository.
        faults += [f"the name {name!r} is taken" for name in sorted({*remotes, *names} & {"web", "bucket", "github"})]
        for name in self.properties:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]*", name) or name in ("path", "url", "datalad-id"):
                faults.append(f"property {name!r} must be letters, digits and dashes, and not path, url or datalad-id")
        if self.access == "private" and self.private_stores:
            faults.append("private_stores are where public datasets come from, and access: private has none")
        if self.access == "private" and self.content_url_regex:
            faults.append("content_url_regex chooses among web URLs, and access: private has none")
        if self.version is not None and not _TAG.fullmatch(self.version):
            faults.append(f"version {self.version!r} is not a tag name")
        if faults:
            raise ValueError("; ".join(faults))
        return self


def load_config(path: Path | None, overrides: Mapping[str, Any]) -> Config:
    """Return the settings of ``path`` (None: the defaults) with ``overrides`` on top.

    Raises ``UsageError`` with a line for each fault.
    """
    given: Any = {}
    lines: dict[tuple[str | int, ...], int] = {}
    where = str(path) if path else "command line"
    if path:
        try:
            document = read_yaml(path)
        except FileNotFoundError:
            raise UsageError(f"{path} is missing; docs/reference/mirror.md shows one to copy") from None
        except YamlError as error:
            raise UsageError(f"{path}{error.where}: {error.what}") from None
        given, lines = document.value or {}, document.lines
        if not isinstance(given, dict):
            raise UsageError(f"{path}, line 1: must be a mapping of settings, key: value")
        faults = [f"{path}, line {line}: {name} is given twice" for line, name in document.twice]
        if "dandisets" in given:
            if "datasets" in given:
                faults.append(f"{path}, line {lines['dandisets',]}: dandisets is the same as datasets; give one")
            given["datasets"] = given.pop("dandisets")
            lines["datasets",] = lines["dandisets",]
        if faults:
            raise _first(faults, where)
    for name, value in overrides.items():
        if value is not None:
            given[name] = value
    try:
        return Config.model_validate(given)
    except ValidationError as error:
        every = [f"{_place(where, lines, fault['loc'])}: {_reason(fault)}" for fault in error.errors()]
        raise _first(every, where) from None


def _first(faults: Sequence[str], where: str) -> UsageError:
    """Return the error of some faults; of very many, the first."""
    more = [f"{where}: {counted(len(faults) - MOST_FAULTS, 'more error')}"] if len(faults) > MOST_FAULTS else []
    return usage_errors([*faults[:MOST_FAULTS], *more])


def _place(where: str, lines: Mapping[tuple[str | int, ...], int], location: tuple[str | int, ...]) -> str:
    for length in range(len(location), 0, -1):
        for trail in (location[:length], ("dandisets", *location[1:length])):
            if trail in lines:
                return f"{where}, line {lines[trail]}"
    return where


def _reason(fault: Any) -> str:
    name = ".".join(str(part)[:80] for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {name}; docs/reference/mirror.md lists the keys"
    if fault["type"] == "missing":
        return f"{name} is missing"
    message = str(fault["msg"]).removeprefix("Value error, ")[:500]
    return f"{name}: {message[:1].lower()}{message[1:]}" if name else message
