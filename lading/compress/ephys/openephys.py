"""Open Ephys binary: every record node, experiment, recording and stream.

Input: a directory with ``structure.oebin`` files below. Output: streams, one
per experiment and stream, recordings as their segments.
Invariant: every sample of every ``continuous.dat`` belongs to exactly one
stream; channels are split as python-neo does: neural, ``_ADC``, ``SYNC``.
Format: https://open-ephys.github.io/gui-docs/User-Manual/Recording-data/Binary-format.html
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lading.compress.ephys.probe import read_openephys_probe
from lading.compress.ephys.recording import (
    ANALOG,
    DIGITAL,
    NEURAL,
    Finding,
    Segment,
    Stream,
    find_files,
    refuse_two,
    session_label,
)
from lading.compress.inventory import Item
from lading.compress.job import SourceFault
from lading.core.bounded import JsonMembers, read_json
from lading.core.errors import usage_errors
from lading.core.progress import counted

DTYPE = "<i2"
STRUCTURE = "structure.oebin"


@dataclass(frozen=True)
class _Part:
    """Some channels of one recording's continuous.dat."""

    experiment: str
    recording: int
    name: str
    content: str
    info: Mapping[str, Any]
    channels: tuple[Mapping[str, Any], ...]
    segment: Segment
    settings: Path
    session: Path
    folder: str
    notes: tuple[str, ...]


def find_streams(source: Path, finding: Finding) -> list[Stream]:
    """Return the streams of a directory; raises all faults at once.

    ``accept_sizes`` takes a ``continuous.dat`` whose number of frames differs
    from that of its timestamps, ``accept_missing`` a stream without one.
    """
    faults: list[str] = []
    parts: list[_Part] = []
    for structure in find_files(source, (STRUCTURE,)):
        try:
            parts.extend(_read_recording(source, structure, finding, faults))
        except SourceFault as error:
            faults.append(str(error))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a file of others is its fault, by name
            faults.append(f"{source / structure}: not a description of a recording ({error!r})")
    grouped: dict[tuple[str, str, Path], list[_Part]] = {}
    for part in parts:
        grouped.setdefault((part.experiment, part.name, part.session), []).append(part)
    sessions: dict[tuple[str, str], list[Path]] = {}
    for experiment, name, session in grouped:
        sessions.setdefault((experiment, name), []).append(session)
    if not finding.each:
        twice = {(experiment, tuple(found)): name for (experiment, name), found in sessions.items() if len(found) > 1}
        faults += [refuse_two(f"{name} of {experiment}", found) for (experiment, found), name in sorted(twice.items())]
    apart = finding.each and any(len(found) > 1 for found in sessions.values())
    streams = []
    for (experiment, name, session), members in sorted(grouped.items()):
        members.sort(key=lambda part: part.recording)
        faults += _copies(source, members)
        first = members[0]
        for other in members[1:]:
            if _layout(other) != _layout(first):
                faults.append(
                    f"{source / other.segment.file}: channels or sampling rate differ from those of "
                    f"{first.segment.file}; recordings of one experiment must agree: compress them apart"
                )
        label = session_label(source.absolute(), session) if apart else ""
        streams.append(_make_stream(f"{label}{experiment}_{name}", members))
    if faults:
        raise usage_errors(faults)
    if not streams:
        raise SourceFault(f"{source}: no continuous data is described by any {STRUCTURE}")
    return streams


def _copies(source: Path, members: list[_Part]) -> Iterator[str]:
    """Yield a fault for recordings of one experiment that are not told apart by a number: copies."""
    seen: dict[int, str] = {}
    for part in members:
        odd = len(members) > 1 and not re.fullmatch(r"recording\d+", part.folder)
        if odd or part.recording in seen:
            other = seen.get(part.recording, "the others of its experiment")
            yield (
                f"{source / part.segment.file}: {part.folder} cannot be told from {other}; recordings of one "
                "experiment are recording1, recording2 …: move a copy elsewhere"
            )
        seen[part.recording] = part.folder


def _layout(part: _Part) -> tuple[Any, ...]:
    return (part.info["sample_rate"], [(c["channel_name"], c["bit_volts"]) for c in part.channels])


def _number(text: str) -> int:
    match = re.search(r"\d+$", text)
    return int(match[0]) if match else 0


def _read_recording(source: Path, structure: str, finding: Finding, faults: list[str]) -> Iterator[_Part]:
    """Yield the parts of one recording; what is wrong with single streams goes to ``faults``."""
    folder = (source / structure).parent
    # …/<Record Node N>/experimentN/recordingN/structure.oebin; the source may begin at any of these.
    absolute = folder.absolute()
    experiment = absolute.parent.name if absolute.parent.name.startswith("experiment") else "experiment1"
    node = absolute.parent.parent
    prefix = f"{node.name}#" if node.name.startswith("Record") else ""
    session = node.parent if prefix else node
    number = _number(experiment)
    settings = node / ("settings.xml" if number <= 1 else f"settings_{number}.xml")
    for info in _read_structure(source / structure):
        directory = folder / "continuous" / info["folder_name"]
        data = directory / "continuous.dat"
        if not data.exists():
            missing = f"{data} is missing, although {source / structure} lists it"
            if finding.accept_missing:
                finding.items.append(Item(structure, info["folder_name"], "its continuous.dat is missing"))
            else:
                faults.append(f"{missing}; restore it, or give --accept-missing to continue without it")
            continue
        channels = info["channels"]
        if len(channels) != info.get("num_channels", len(channels)) or not channels:
            faults.append(
                f"{source / structure}: {info['folder_name']} says num_channels {info.get('num_channels')} "
                f"and lists {len(channels)}"
            )
            continue
        try:
            frames = finding.count_frames(source, str(data.relative_to(source)), len(channels), 2)
            segment, notes = _make_segment(source, directory, data, info, frames, finding.accept_sizes)
        except SourceFault as error:
            faults.append(str(error))
            continue
        name = prefix + info["folder_name"].strip("/").split("/")[0]
        for content, suffix, first, members in split_channels(name, channels):
            yield _Part(
                experiment,
                _number(absolute.name),
                name + suffix,
                content,
                info,
                members,
                Segment(**{**vars(segment), "first_channel": first}),
                settings,
                session,
                absolute.name,
                notes,
            )


def _make_segment(
    source: Path, directory: Path, data: Path, info: Mapping[str, Any], frames: int, accept_sizes: bool
) -> tuple[Segment, tuple[str, ...]]:
    """Return the segment of one continuous.dat, its clocks included, and what is to be said of these.

    Since GUI 0.6 ``sample_numbers.npy`` holds int64 counts and
    ``timestamps.npy`` float64 seconds; before, ``timestamps.npy`` held the
    counts and ``synchronized_timestamps.npy``, if any, the seconds.
    """
    counts = directory / "sample_numbers.npy"
    times = directory / "timestamps.npy"
    if not counts.exists():
        counts, times = times, directory / "synchronized_timestamps.npy"
    t_start = None
    found = {}
    notes = []
    for role, path in (("counts", counts), ("times", times)):
        if not path.exists():
            continue
        try:
            array = np.load(path, mmap_mode="r")
        except Exception as error:
            # Empty or cut short, as a crash of the acquisition leaves it.
            reason = " ".join(str(error).split()) or type(error).__name__
            if not accept_sizes:
                raise SourceFault(
                    f"{path}: cannot be read as a NumPy array ({reason}): it is empty or truncated; restore it, or "
                    "give --accept-sizes to continue without it"
                ) from error
            notes.append(f"{path.relative_to(source)} cannot be read ({reason}) and stays as it is in the clipped copy")
            continue
        if array.shape != (frames,):
            if not accept_sizes:
                raise SourceFault(
                    f"{data} holds {counted(frames, 'frame')} (ends at offset {data.stat().st_size}) but {path} has "
                    f"{array.shape[0] if array.ndim else 0}: the recording is truncated or damaged; "
                    "give --accept-sizes to keep what is there"
                )
            notes.append(f"{path.relative_to(source)} has not the {frames} values of its samples; see the clipped copy")
            continue
        if role == "counts":
            t_start = float(array[0]) / float(info["sample_rate"]) if frames else 0.0
        found[role] = str(path.relative_to(source))
    segment = Segment(
        file=str(data.relative_to(source)),
        frames=frames,
        file_channels=len(info["channels"]),
        t_start=t_start,
        times=found.get("times", ""),
        sample_numbers=found.get("counts", ""),
    )
    return segment, tuple(notes)


def split_channels(
    stream: str, channels: list[Mapping[str, Any]]
) -> Iterator[tuple[str, str, int, tuple[Mapping[str, Any], ...]]]:
    """Yield (content, name suffix, first channel, channels): runs of neural, ADC and sync channels.

    A OneBox stream keeps its ADC channels; NI-DAQ streams are analog.
    """

    def sort_out(channel: Mapping[str, Any]) -> tuple[str, str]:
        name = channel["channel_name"]
        if "SYNC" in name:
            return DIGITAL, "SYNC"
        if "ADC" in name and "OneBox" not in stream:
            return ANALOG, "_ADC"
        return (ANALOG if "NI-DAQ" in stream or "ADC" in name else NEURAL), ""

    first = 0
    seen: dict[str, int] = {}
    while first < len(channels):
        kind = sort_out(channels[first])
        last = first
        while last < len(channels) and sort_out(channels[last]) == kind:
            last += 1
        # A second run of one sort (interleaved ADC channels) gets a number rather than being lost.
        seen[kind[1]] = seen.get(kind[1], 0) + 1
        suffix = kind[1] + (f"_{seen[kind[1]]}" if seen[kind[1]] > 1 else "")
        yield kind[0], suffix, first, tuple(channels[first:last])
        first = last


def _make_stream(name: str, parts: list[_Part]) -> Stream:
    first = parts[0]
    names = tuple(channel["channel_name"] for channel in first.channels)
    probe, lacking = None, ""
    if first.content == NEURAL:
        probe, lacking = read_openephys_probe(first.settings, first.name.rpartition("#")[2], len(names))
    return Stream(
        name=name,
        dtype=DTYPE,
        sampling_frequency=float(first.info["sample_rate"]),
        channel_ids=names,
        channel_names=names,
        gains=tuple(float(channel["bit_volts"]) for channel in first.channels),
        offsets=(0.0,) * len(names),
        # Unnamed units: volts for ADC channels, microvolts for all others (format description).
        units=tuple(c.get("units") or ("V" if "ADC" in c["channel_name"] else "uV") for c in first.channels),
        content=first.content,
        segments=tuple(part.segment for part in parts),
        probe=probe,
        annotations={"experiment_name": first.experiment},
        notes=(*((lacking,) if lacking else ()), *(note for part in parts for note in part.notes)),
    )


def _read_structure(path: Path) -> list[dict[str, Any]]:
    """Return what a structure.oebin says of continuous data; ``SourceFault`` when it is damaged."""
    try:
        found = JsonMembers(read_json(path), "it").items("continuous", _check_stream, ())
    except ValueError as error:
        raise SourceFault(f"{path}: not a description of a recording ({error})") from error
    return list(found)


def _check_stream(value: Any) -> dict[str, Any]:
    take = JsonMembers(value, "a stream")
    take.text("folder_name"), take.real("sample_rate", 0.0), take.items("channels", JsonMembers)
    found: dict[str, Any] = value
    return found
