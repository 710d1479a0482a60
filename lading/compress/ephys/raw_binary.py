"""Plain interleaved samples with a small YAML that says what they are.

Input: a YAML file, or a directory holding exactly one ``*.recording.yaml``.
Output: one stream. Fields: docs/reference/formats.md.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lading.compress.ephys.probe import read_probe_file
from lading.compress.ephys.recording import NEURAL, Finding, Segment, Stream, count_frames
from lading.compress.inventory import Item
from lading.compress.job import SourceFault
from lading.core.errors import UsageError, usage_errors
from lading.core.progress import counted
from lading.core.yaml_file import YamlError, read_yaml

SUFFIX = ".recording.yaml"
MOST_CHANNELS = 100_000
REQUIRED = ("files", "channels", "sampling_frequency")
OPTIONAL = (
    "name",
    "dtype",
    "gain_uV",
    "offset_uV",
    "channel_ids",
    "header_bytes",
    "probe",
    "content",
    "t_start",
)
# What the codecs keep bit by bit.
DTYPES = ("int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64")


def find_description(source: Path) -> Path | None:
    """Return the YAML of a source, or None."""
    if source.is_file():
        return source if source.suffix in (".yaml", ".yml") else None
    found = sorted(source.glob(f"*{SUFFIX}"))
    if len(found) > 1:
        raise UsageError(f"{source} holds {len(found)} {SUFFIX} files; give the path of one")
    return found[0] if found else None


def find_streams(source: Path, finding: Finding) -> list[Stream]:
    """Return the stream that the YAML describes; raises all faults at once."""
    path = find_description(source)
    if path is None:
        raise SourceFault(f"{source}: no {SUFFIX} file")
    try:
        fields = read_yaml(path).value
    except YamlError as error:
        raise SourceFault(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(fields, dict):
        raise SourceFault(f"{path}: not a list of fields; required are {', '.join(REQUIRED)}")
    faults = [f"{path}: field {name} is missing" for name in REQUIRED if name not in fields]
    faults += [
        f"{path}: unknown field {name!r}; known are {', '.join(REQUIRED + OPTIONAL)}"
        for name in fields
        if name not in REQUIRED + OPTIONAL
    ]
    dtype = str(fields.get("dtype", "int16"))
    if dtype not in DTYPES:
        faults.append(f"{path}: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if faults:
        raise usage_errors(faults)
    return [_describe(source, path, fields, np.dtype(dtype).newbyteorder("<"), finding)]


def _describe(source: Path, path: Path, fields: Mapping[str, Any], dtype: "np.dtype[Any]", finding: Finding) -> Stream:
    try:
        channels = int(fields["channels"])
        if channels > MOST_CHANNELS:  # before anything is spread over so many
            raise ValueError(f"{MOST_CHANNELS:,} channels are the most")
        rate = float(fields["sampling_frequency"])
        header = int(fields.get("header_bytes", 0))
        files = [str(name) for name in ([fields["files"]] if isinstance(fields["files"], str) else fields["files"])]
        gains = _spread(fields.get("gain_uV", 1.0), channels)
        offsets = _spread(fields.get("offset_uV", 0.0), channels)
        ids = tuple(str(one) for one in fields.get("channel_ids", range(channels)))
    except (TypeError, ValueError, OverflowError) as error:
        raise SourceFault(f"{path}: a field has the wrong kind of value ({error})") from error
    if channels < 1 or rate <= 0 or header < 0 or {len(gains), len(offsets), len(ids)} != {channels}:
        raise SourceFault(
            f"{path}: channels {channels}, sampling_frequency {rate}, header_bytes {header} and lists of "
            f"{counted(len(gains), 'gain')}, {counted(len(offsets), 'offset')}, {counted(len(ids), 'id')} "
            f"do not fit together"
        )
    base = source if source.is_dir() else path.parent
    segments = []
    for name in files:
        data = base / name
        if not data.is_file():
            raise SourceFault(f"{data} is missing, although {path} names it")
        if finding.accept_sizes:
            frames, rest = divmod(max(0, data.stat().st_size - header), channels * dtype.itemsize)
            if rest:
                reason = "taken so by --accept-sizes"
                finding.items.append(Item(name, f"the {rest} bytes after the last whole frame", reason))
        else:
            frames = count_frames(data, channels, dtype.itemsize, header)
        segments.append(Segment(name, frames, channels, offset=header, t_start=fields.get("t_start")))
    name = str(fields.get("name") or path.name.removesuffix(SUFFIX).removesuffix(".yaml").removesuffix(".yml"))
    probe = read_probe_file(base / str(fields["probe"]), channels) if fields.get("probe") else None
    return Stream(
        name=name.replace("/", "_"),
        dtype=dtype.str,
        sampling_frequency=rate,
        channel_ids=ids,
        channel_names=ids,
        gains=gains,
        offsets=offsets,
        units=("uV",) * channels,
        content=str(fields.get("content", NEURAL)),
        segments=tuple(segments),
        probe=probe,
    )


def _spread(value: Any, channels: int) -> tuple[float, ...]:
    if isinstance(value, list):
        return tuple(float(one) for one in value)
    return (float(value),) * channels
