"""What each task reads of its ``job_settings``: one model a task and a compressor, every key with its type and aliases.

Input: the settings that a list, a request, a preset or a file of settings
gives. Output: the settings as the task gets them, and a sentence for each key
that nothing reads and each value that does not fit.
Invariant: pure. What is returned holds only what was given and is read, under
one name for each thing; text stays text unless the model says otherwise.
"""

import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from lading.sessions import values, vocabulary
from lading.sessions.vocabulary import nearest

# How many unknown keys of one place are named; a request may hold ten thousand.
MOST_NAMED = 20
Trail = tuple[str, ...]


class Settings(BaseModel):
    """The settings of one task; ``aliases`` maps other spellings of a key to its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    aliases: ClassVar[Mapping[str, str]] = {}


class NoSettings(Settings):
    """A task that reads nothing."""


class PreliminarySettings(Settings):
    """``gather_preliminary_metadata``: what the description of the data says, and how the service is asked."""

    institution: values.Words | None = None
    funding_source: values.Texts | None = None
    investigators: values.Texts | None = None
    license: values.Words | None = None
    group: values.Words | None = None
    tags: values.Texts | None = None
    restrictions: values.Words | None = None
    data_summary: values.Words | None = None
    timeout: values.Number | None = Field(default=None, gt=0)
    allow_unreachable: values.Boolean | None = None


# What of them is said in data_description.json, which aind-metadata-mapper makes where it is used.
DESCRIPTION_KEYS = tuple(
    name for name in PreliminarySettings.model_fields if name not in ("timeout", "allow_unreachable")
)


class MapperDescription(Settings):
    """What aind-metadata-mapper says of the data; project and modalities are the job's where it does not name any."""

    project_name: values.Words | None = None
    modalities: Annotated[list[Any], BeforeValidator(values.items)] | None = None
    tags: values.Texts | None = None
    group: values.Words | None = None
    restrictions: values.Words | None = None
    data_summary: values.Words | None = None
    institution: Any = None


class MapperSubject(Settings):
    """A calibration object in place of a subject."""

    calibration_object: dict[str, Any] | None = None


class MapperInstrument(Settings):
    """The instrument that the metadata service is asked for."""

    instrument_id: values.Words


class MapperEnrichment(Settings):
    """Whether the acquisition gets what the rig did not know."""

    enabled: values.Boolean | None = None
    replace_existing: values.Boolean | None = None


class MapperSettings(Settings):
    """``gather_preliminary_metadata`` with aind-metadata-mapper: its settings, but for what is the row's."""

    output_dir: Literal["%OUTPUT_LOCATION"] | None = None
    raise_if_invalid: values.Boolean | None = None
    raise_if_mapper_errors: values.Boolean | None = None
    data_description_settings: Annotated[MapperDescription, BeforeValidator(values.members)] | None = None
    subject_settings: Annotated[MapperSubject, BeforeValidator(values.members)] | None = None
    instrument_settings: Annotated[MapperInstrument, BeforeValidator(values.members)] | None = None
    enrichment_settings: Annotated[MapperEnrichment, BeforeValidator(values.members)] | None = None
    metadata_service_url: values.OpenUrl | None = None
    metadata_service_subject_endpoint: values.Words | None = None
    metadata_service_procedures_endpoint: values.Words | None = None
    metadata_service_instrument_endpoint: values.Words | None = None


class CheckMetadataSettings(Settings):
    """``check_metadata_files``: whether the files of others must be valid too."""

    strict: values.Boolean | None = None


class UploadSettings(Settings):
    """``upload_data_to_s3``: whether what another state root put there may be replaced by other content."""

    replace_others: values.Boolean | None = None


class RegisterSettings(Settings):
    """``register_data_asset_to_codeocean``: fields that the asset gets beside the usual ones."""

    properties: Annotated[dict[str, values.Words], BeforeValidator(values.members)] | None = None


class DocdbSettings(Settings):
    """``update_docdb_record``: which database, and which version of its interface."""

    url: values.Words | None = None
    api_token: values.Words | None = None
    database: values.Words | None = None
    collection: values.Words | None = None
    docdb_version: Literal["v1", "v2"] | None = None


class RemoveStagingSettings(Settings):
    """``remove_staging_folder``: whether the folder goes after a failure, too."""

    always: values.Boolean | None = None


class RemoveSourcesSettings(Settings):
    """``remove_source_folders``: what a deletion needs."""

    dry_run: values.Truth | None = None
    level: Annotated[str, BeforeValidator(lambda value: _level(value))] | None = None
    accept_loss: values.Boolean | None = None


def _level(value: Any) -> str:
    if value not in vocabulary.DELETION_LEVELS:
        raise ValueError(f"{value!r} is not a level; one of {', '.join(vocabulary.DELETION_LEVELS)}")
    return str(value)


def _box(value: Any) -> str:
    parts = values.texts(value) if not isinstance(value, (list, tuple)) else [str(item) for item in value]
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise ValueError(f"{values.shown(value)} is not three whole numbers; write voxels along z,y,x like 64,128,128")
    return ",".join(part.strip() for part in parts)


def _voxel(value: Any) -> str:
    parts = values.texts(value) if not isinstance(value, (list, tuple)) else [str(item) for item in value]
    if len(parts) != 3 or not all(values.number(part) > 0 for part in parts):
        raise ValueError(f"{values.shown(value)} is not three lengths; write micrometres along z,y,x like 1,0.5,0.5")
    return ",".join(part.strip() for part in parts)


def _image_codec(value: Any) -> str:
    name, _, level = values.words(value).partition(":")
    if name not in IMAGE_CODECS:
        raise ValueError(f"{name!r} is not a codec for images; one of {', '.join(IMAGE_CODECS)}")
    low, high = IMAGE_CODECS[name]
    if level and (not level.isdigit() or not low <= int(level) <= high):
        raise ValueError(f"level {level!r} of codec {name} is not a whole number from {low} to {high}")
    return str(value)


# Name → lowest and highest level; a test holds them against the compressor's own.
IMAGE_CODECS = {
    "blosc-zstd": (1, 9),
    "blosc-lz4": (1, 9),
    "zstd": (1, 22),
    "gzip": (1, 9),
    "pcodec": (0, 12),
    "none": (0, 0),
}


class CompressSettings(Settings):
    """What every compressor reads."""

    kind: Literal["ephys", "imaging", "video", "generic"] | None = None


class EphysSettings(CompressSettings):
    """The flags of ``--kind ephys``."""

    format: Literal["auto", "openephys", "spikeglx", "nwb", "plain"] | None = None
    codec: Literal["pcodec", "wavpack", "blosc-zstd"] | None = None
    level: values.Whole | None = None
    bits_per_sample: values.Number | None = Field(default=None, ge=2.25, le=24)
    chunk_seconds: values.Number | None = Field(default=None, gt=0)
    zarr_format: Literal[2, 3] | None = None
    correct: values.Boolean | None = None
    no_clip: values.Boolean | None = None
    no_preview: values.Boolean | None = None
    accept_sizes: values.Boolean | None = None
    accept_missing: values.Boolean | None = None
    each: values.Boolean | None = None
    endpoint_url: values.Words | None = None

    @model_validator(mode="before")
    @classmethod
    def _clip(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "clip" in given and "no_clip" not in given:
            given = dict(given)
            given["no_clip"] = not values.boolean(given.pop("clip"))
        return given


class ImagingSettings(CompressSettings):
    """The flags of ``--kind imaging``."""

    ngff: Literal["0.5", "0.4"] | None = None
    levels: values.Whole | None = Field(default=None, ge=1, le=20)
    chunk: Annotated[str, BeforeValidator(_box)] | None = None
    shard: Annotated[str, BeforeValidator(_box)] | None = None
    codec: Annotated[str, BeforeValidator(_image_codec)] | None = None
    voxel_size: Annotated[str, BeforeValidator(_voxel)] | None = None
    dataset: values.Words | None = None
    reuse_pyramid: values.Boolean | None = None
    endpoint_url: values.Words | None = None
    allow_gaps: values.Boolean | None = None
    by_pages: values.Boolean | None = None
    no_preview: values.Boolean | None = None
    accept_damaged: values.Boolean | None = None


# What the reference's video package calls its ways, and what ours are called.
VIDEO_PRESETS = {
    "default": "default",
    "gamma encoding": "gamma",
    "gamma fix colorspace": "gamma-fix",
    "no gamma encoding": "no-gamma",
    "user defined": "user",
    "no compression": "none",
}
_REQUESTED = ("compression_enum", "user_ffmpeg_input_options", "user_ffmpeg_output_options")


class VideoSettings(CompressSettings):
    """The flags of ``--kind video``, and the reference's ``compression_requested``, which means the same."""

    preset: Literal["default", "gamma", "gamma-fix", "no-gamma", "user", "none"] | None = None
    ffmpeg_arguments: values.Words | None = None
    ffmpeg_threads: values.Whole | None = Field(default=None, ge=1, le=256)
    video_zip: Literal["no", "aes", "legacy"] | None = None
    accept_damaged: values.Boolean | None = None
    password_file: values.Words | None = None
    password_variable: values.Words | None = None

    @model_validator(mode="before")
    @classmethod
    def _requested(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "compression_requested" not in given:
            return given
        given = dict(given)
        asked = values.members(given.pop("compression_requested"))
        unknown = [key for key in asked if key not in _REQUESTED]
        if unknown:
            raise ValueError(f"compression_requested.{unknown[0]} is not read{nearest(unknown[0], _REQUESTED)}")
        if "preset" in given:
            raise ValueError("preset and compression_requested say the same thing twice; give one of them")
        word = asked.get("compression_enum", "default")
        if word not in VIDEO_PRESETS:
            hint = nearest(str(word), VIDEO_PRESETS) or f"; one of {', '.join(VIDEO_PRESETS)}"
            raise ValueError(f"compression_requested.compression_enum: {word!r} is not a compression{hint}")
        given["preset"] = VIDEO_PRESETS[word]
        if asked.get("user_ffmpeg_input_options"):
            raise ValueError("compression_requested.user_ffmpeg_input_options is not read; give output options only")
        if asked.get("user_ffmpeg_output_options"):
            given["ffmpeg_arguments"] = asked["user_ffmpeg_output_options"]
        return given


class EncryptSettings(Settings):
    """Videos that go up as they are, each in a zip with a password."""

    video_zip: Literal["aes", "legacy"] | None = None


class GenericSettings(CompressSettings):
    """The flags of ``--kind generic``."""

    pack: Literal["copy", "plain", "aes", "legacy"] | None = None
    password_file: values.Words | None = None
    password_variable: values.Words | None = None


KIND_SETTINGS: Mapping[str, type[Settings]] = {
    "ephys": EphysSettings,
    "imaging": ImagingSettings,
    "video": VideoSettings,
    "generic": GenericSettings,
}
# Other spellings that a model takes in before its fields.
_SPELLINGS: Mapping[type[Settings], Mapping[str, str]] = {
    EphysSettings: {"clip": "no_clip"},
    VideoSettings: {"compression_requested": "preset"},
}
# Data kind of a modality that is compressed; all others are generic.
KIND_OF = {"ecephys": "ephys", "SPIM": "imaging", "behavior-videos": "video"}


class AssetParam(Settings):
    """A data asset that a computation gets."""

    id: values.Words
    mount: values.Words | None = None


class NamedParam(Settings):
    """A parameter by name."""

    param_name: values.Words
    value: values.Words


class ProcessParam(Settings):
    """The parameters of one process of a pipeline."""

    name: values.Words
    parameters: values.Texts | None = None
    named_parameters: list[NamedParam] | None = None


class RunParams(Settings):
    """What a computation runs: the fields of Code Ocean's own request."""

    capsule_id: values.Identifier | None = None
    pipeline_id: values.Identifier | None = None
    version: values.Whole | None = None
    resume_run_id: values.Words | None = None
    nextflow_profile: values.Words | None = None
    data_assets: list[AssetParam] | None = None
    parameters: values.Texts | None = None
    named_parameters: list[NamedParam] | None = None
    processes: list[ProcessParam] | None = None


class AwsTarget(Settings):
    """A bucket that results go to; the prefix is the name of the asset."""

    bucket: values.Words
    endpoint_name: values.Words | None = None
    prefix: values.Words | None = None


class CaptureTarget(Settings):
    """Where results go instead of into Code Ocean."""

    aws: AwsTarget | None = None


class UserPermission(Settings):
    """What one user may do with an asset."""

    email: values.Words
    role: Literal["owner", "editor", "viewer"]


class GroupPermission(Settings):
    """What a group may do with an asset."""

    group: values.Words
    role: Literal["owner", "editor", "viewer", "discoverable"]


class Permissions(Settings):
    """Who may do what with an asset."""

    users: list[UserPermission] | None = None
    groups: list[GroupPermission] | None = None
    everyone: Literal["viewer", "discoverable", "none"] | None = None


class CaptureDocdb(Settings):
    """Where the captured asset gets its record."""

    docdb_api_gateway: values.Words
    docdb_version: Literal["v1", "v2"] | None = None
    docdb_database: values.Words | None = None
    docdb_collection: values.Words | None = None
    results_bucket: values.Words


class CaptureSettings(Settings):
    """How the results of a computation become a data asset."""

    name: values.Words | None = None
    tags: values.Texts | None = None
    mount: values.Words | None = None
    description: values.Words | None = None
    source: None = None
    target: CaptureTarget | None = None
    custom_metadata: dict[str, Any] | None = None
    data_description_file_name: Literal["data_description.json"] | None = None
    process_name_suffix: values.Words | None = None
    process_name_suffix_tz: Annotated[str, BeforeValidator(values.zone)] | None = None
    permissions: Permissions | None = None
    docdb_settings: CaptureDocdb | None = None


class MonitorSettings(Settings):
    """A computation, how long it is waited for, and what becomes of its results."""

    alert_url: values.Url | None = None
    computation_polling_interval: values.Number | None = Field(default=None, ge=0)
    computation_timeout: values.Number | None = Field(default=None, gt=0)
    data_asset_ready_polling_interval: values.Number | None = Field(default=None, ge=0)
    data_asset_ready_timeout: values.Number | None = Field(default=None, gt=0)
    run_params: RunParams | None = None
    capture_settings: CaptureSettings | None = None


class PipelineSettings(Settings):
    """``codeocean_pipeline_settings`` of a modality: what is run after the upload.

    With ``pipeline_monitor_capsule_id`` that capsule gets the monitor's
    settings as its parameter; otherwise the task is the monitor itself.
    """

    pipeline_monitor_capsule_id: values.Identifier | None = None
    pipeline_monitor_settings: Annotated[MonitorSettings, BeforeValidator(values.members)] | None = None
    capsule_id: values.Identifier | None = None
    pipeline_id: values.Identifier | None = None
    version: values.Whole | None = None
    parameters: values.Texts | None = None

    @model_validator(mode="after")
    def _once(self) -> "PipelineSettings":
        monitor = self.pipeline_monitor_settings
        run = monitor.run_params if monitor else None
        for name in ("capsule_id", "pipeline_id", "version", "parameters"):
            own, nested = getattr(self, name), getattr(run, name) if run else None
            if own is not None and nested is not None and own != nested:
                raise ValueError(f"{name} is {own!r}, and {nested!r} in pipeline_monitor_settings.run_params; give one")
        if self.pipeline_monitor_capsule_id and not monitor:
            raise ValueError("pipeline_monitor_capsule_id needs pipeline_monitor_settings, which that capsule reads")
        return self


TASK_SETTINGS: Mapping[str, type[Settings]] = {
    "gather_preliminary_metadata": PreliminarySettings,
    "check_metadata_files": CheckMetadataSettings,
    "upload_data_to_s3": UploadSettings,
    "register_data_asset_to_codeocean": RegisterSettings,
    "update_docdb_record": DocdbSettings,
    "run_codeocean_pipeline": PipelineSettings,
    "remove_staging_folder": RemoveStagingSettings,
    "remove_source_folders": RemoveSourcesSettings,
}
# Tasks that can be a program of the list's own: its script gets every setting.
PROGRAM_TASKS = ("compress_data", "gather_preliminary_metadata", "gather_final_metadata")
MAPPER = "aind_metadata_mapper"
# What its versions before 1.0 read: they write a schema that is not the one here.
OLD_MAPPER_KEYS = (
    "acquisition_settings",
    "directory_to_write_to",
    "job_settings_name",
    "metadata_settings",
    "metadata_str",
    "output_directory",
    "procedures_settings",
    "processing_settings",
    "raw_data_description_settings",
    "rig_settings",
    "session_settings",
)


@cache
def has_mapper() -> bool:
    """Tell whether aind-metadata-mapper is installed here, in a version that fits the schema."""
    try:
        return int(importlib.metadata.version(MAPPER).partition(".")[0]) >= 1
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False


def settings_of(task: str) -> type[Settings]:
    """Return the model of a task that is not a program and compresses nothing."""
    return TASK_SETTINGS.get(task, NoSettings)


def known_to_any_kind() -> frozenset[str]:
    """Return every key that some compressor reads."""
    return frozenset(key for model in KIND_SETTINGS.values() for key in names_of(model))


def names_of(model: type[Settings]) -> list[str]:
    """Return the keys that a model reads, its other spellings included."""
    return [*model.model_fields, *_SPELLINGS.get(model, {})]


@dataclass
class Reading:
    """What was made of settings.

    values   what the task gets
    origins  top key of ``values`` → the key that was given
    errors   (trail of the key, sentence)
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    errors: list[tuple[Trail, str]] = field(default_factory=list)


def read_settings(model: type[Settings], given: Mapping[str, Any], reader: str) -> Reading:
    """Return settings as a task gets them; ``reader`` names the task in sentences."""
    known = names_of(model)
    found = Reading()
    unknown = [key for key in given if key not in known]
    for key in unknown[:MOST_NAMED]:
        found.errors.append(((key,), _not_read(key, known, reader)))
    if len(unknown) > MOST_NAMED:
        found.errors.append(
            ((unknown[MOST_NAMED],), f"and {len(unknown) - MOST_NAMED} more keys that Lading does not read")
        )
    rest = {key: value for key, value in given.items() if key in known}
    try:
        read = model.model_validate(rest)
    except ValidationError as error:
        found.errors += list(_sentences(error, model, reader))
        return found
    found.values = read.model_dump(mode="json", exclude_unset=True)
    spellings = _SPELLINGS.get(model, {})
    found.origins = {spellings.get(key, key): key for key in rest}
    return found


def _not_read(key: str, known: list[str], reader: str) -> str:
    hint = nearest(key, known)
    listed = f"; it reads {', '.join(known[:12])}" if known else ""
    return f"{values.shown(key)} is not read by {reader}{hint or listed}"


def _sentences(error: ValidationError, model: type[Settings], reader: str) -> Iterator[tuple[Trail, str]]:
    """Yield (trail, sentence) of pydantic's errors, the first few of each place."""
    counts: dict[Trail, int] = {}
    for item in error.errors(include_url=False, include_context=False):
        trail = tuple(str(part) for part in item["loc"] if part not in ("function-before", "none"))
        if item["type"] == "none_required":
            continue  # the other branch of an optional value
        place = trail[:-1]
        counts[place] = counts.get(place, 0) + 1
        if counts[place] > MOST_NAMED:
            continue
        if item["type"] == "extra_forbidden":
            yield trail, _not_read(trail[-1], _fields_at(model, place), reader)
        elif item["type"] == "literal_error":
            yield trail, f"{values.shown(item['input'])} is not one of {item['msg'].removeprefix('Input should be ')}"
        else:
            yield trail, item["msg"].removeprefix("Value error, ").replace("Input should", "should", 1)


def _fields_at(model: Any, place: Trail) -> list[str]:
    """Return the keys that are read at a place of a model."""
    for part in place:
        if part.isdigit():
            continue
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return []
        model = _model_in(fields[part].annotation)
    return [*getattr(model, "model_fields", {})]


def _model_in(annotation: Any) -> Any:
    """Return the model within ``X | None``, ``list[X]`` or ``Annotated[X, …]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for inner in get_args(annotation) if get_origin(annotation) else ():
        found = _model_in(inner)
        if found is not None:
            return found
    return None
