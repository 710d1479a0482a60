"""SpikeGLX: pairs of ``.bin`` and ``.meta`` (imec AP and LF, NI-DAQ, OneBox).

Input: a directory with such pairs below. Output: streams, one per run, gate
and device, triggers as their segments.
Invariant: every channel of every .bin belongs to exactly one stream; imec
sync words become a ``-SYNC`` stream, as python-neo has it.
Format: https://billkarsh.github.io/SpikeGLX/Sgl_help/Metadata_30.html
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lading.compress.ephys import mtscomp_file
from lading.compress.ephys.probe import read_spikeglx_probe
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
from lading.compress.sources import Source
from lading.core.errors import usage_errors
from lading.core.progress import counted

DTYPE = "<i2"
CAT = "cat"
# <run>_g<gate>_t<trigger or cat>.<device>[.<band>]
_NAME = re.compile(r"(?P<run>.+)_g(?P<gate>\d+)_t(?P<trigger>\d+|cat)\.(?P<device>[a-z]+\d*)(?:\.(?P<band>[a-z]+))?$")
# Amplification of the AP band where it is fixed by the probe type and not in the metadata (SpikeGLX, Metadata_30).
_FIXED_GAINS = {21: 80.0, 24: 80.0, 2003: 100.0, 2004: 100.0, 2013: 100.0, 2014: 100.0, 2020: 100.0, 2021: 100.0}


def read_meta(path: Path) -> dict[str, str]:
    """Return the ``key=value`` lines of a .meta; the ``~`` of table keys is dropped."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    pairs = (line.split("=", 1) for line in lines if "=" in line)
    return {key.strip().lstrip("~"): value.strip() for key, value in pairs}


def parse_table(text: str) -> list[str]:
    """Return the bracketed entries of a table value, header first: ``(a)(b c)`` → ``["a", "b c"]``."""
    return re.findall(r"\(([^)]*)\)", text)


def find_streams(source: Path, finding: Finding) -> list[Stream]:
    """Return the streams of a directory; raises all faults at once."""
    faults: list[str] = []
    grouped: dict[tuple[str, str, str], list[tuple[int, Stream]]] = {}
    for relative in find_files(source, (".meta",)):
        binary = Path(relative).with_suffix(".bin")
        if not (source / binary).exists() and (source / binary.with_suffix(mtscomp_file.ABOUT)).is_file():
            binary = binary.with_suffix(mtscomp_file.SUFFIX)
        if not (source / binary).exists():
            faults += _without_samples(source, relative, str(binary), finding)
            continue
        try:
            for experiment, trigger, stream in _read_pair(source, relative, str(binary), finding):
                # CatGT's output is the triggers once more, joined and filtered.
                where = f"{binary.parent}{CAT if trigger == CAT else ''}"
                number = 0 if trigger == CAT else int(trigger)
                grouped.setdefault((experiment, stream.name, where), []).append((number, stream))
        except SourceFault as error:
            faults.append(str(error))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a file of others is its fault, by name
            faults.append(f"{source / relative}: not the metadata of a recording ({error!r})")
    places: dict[tuple[str, str], list[str]] = {}
    for experiment, name, where in grouped:
        places.setdefault((experiment, name), []).append(where)
    if not finding.each:
        for (experiment, name), found in sorted(places.items()):
            if len(found) > 1:
                folders = [f"{source / one.removesuffix(CAT)}{' (tcat)' if one.endswith(CAT) else ''}" for one in found]
                faults.append(refuse_two(f"{name} of {experiment}", folders))
    apart = finding.each and any(len(found) > 1 for found in places.values())
    streams = []
    for (experiment, name, where), members in sorted(grouped.items()):
        members.sort(key=lambda pair: pair[0])
        first = members[0][1]
        for _, other in members[1:]:
            if (other.channel_ids, other.sampling_frequency, other.gains) != (
                first.channel_ids,
                first.sampling_frequency,
                first.gains,
            ):
                faults.append(
                    f"{source / other.segments[0].file}: channels, gains or sampling rate differ from those of "
                    f"{first.segments[0].file}; triggers of one gate must agree: compress them apart"
                )
        segments = tuple(stream.segments[0] for _, stream in members)
        label = session_label(source, source / where.removesuffix(CAT)) if apart else ""
        label += "tcat_" if apart and where.endswith(CAT) else ""
        notes = tuple(dict.fromkeys(note for _, stream in members for note in stream.notes))
        changed = {"name": f"{label}{experiment}_{name}", "segments": segments, "notes": notes}
        streams.append(Stream(**{**vars(first), **changed}))
    if faults:
        raise usage_errors(faults)
    if not streams:
        raise SourceFault(f"{source}: no pair of .bin and .meta files below")
    return streams


def _without_samples(source: Path, relative: str, binary: str, finding: Finding) -> list[str]:
    """Return the fault of a .meta without its .bin; none where it is accepted, or no metadata of SpikeGLX."""
    if "nSavedChans" not in read_meta(source / relative):
        return []  # some other program's .meta
    packed = Path(binary).with_suffix(mtscomp_file.SUFFIX)
    if (source / packed).exists() and not finding.accept_missing:
        return [
            f"{source / packed}: is packed by mtscomp, and its {mtscomp_file.ABOUT} is missing; restore that, or give "
            "--accept-missing to copy it unchanged"
        ]
    if finding.accept_missing:
        finding.items.append(Item(relative, Path(binary).name, "is missing"))
        return []
    return [
        f"{source / binary} is missing, although {source / relative} describes it; restore it, or give "
        "--accept-missing "
        "to continue without it"
    ]


def _read_pair(source: Path, relative: str, binary: str, finding: Finding) -> Iterator[tuple[str, str, Stream]]:
    """Yield (experiment, trigger, stream with one segment) for the signals and the sync word of one file."""
    meta = read_meta(source / relative)
    stem = Path(relative).stem
    match = _NAME.match(stem)
    experiment = f"{match['run']}_g{match['gate']}" if match else stem.partition(".")[0]
    trigger = match["trigger"] if match else "0"
    device = ".".join(filter(None, [match["device"], match["band"]])) if match else stem.partition(".")[2] or stem
    device = device.removesuffix(".obx")
    channels = int(meta["nSavedChans"])
    frames, packed = _count(source, relative, binary, finding, meta)
    names = [entry.split(";")[0] for entry in parse_table(meta["snsChanMap"])[1:]]
    if len(names) != channels:
        raise SourceFault(
            f"{source / relative}: snsChanMap names {counted(len(names), 'channel')}, nSavedChans says {channels}"
        )
    rate = float(next(meta[key] for key in ("imSampRate", "niSampRate", "obSampRate") if key in meta))
    gains, unit = read_gains(meta, names)
    t_start = float(meta["firstSample"]) / rate if "firstSample" in meta else None
    # Only imec and OneBox files keep the sync word apart; NI-DAQ's digital words are channels like others.
    sync = [number for number, name in enumerate(names) if "SY" in name and meta.get("typeThis") != "nidq"]
    first_sync = sync[0] if sync else channels
    neural = meta.get("typeThis", "imec") == "imec"
    for first, last, suffix, content in (
        (0, first_sync, "", NEURAL if neural else ANALOG),
        (first_sync, channels, "-SYNC", DIGITAL),
    ):
        if first == last:
            continue
        members = names[first:last]
        probe, lacking = _probe(source / relative, members) if content == NEURAL else (None, "")
        yield (
            experiment,
            trigger,
            Stream(
                name=device + suffix,
                dtype=DTYPE,
                sampling_frequency=rate,
                channel_ids=tuple(f"{device}#{name}" for name in members),
                channel_names=tuple(members),
                gains=tuple(gains[first:last]),
                offsets=(0.0,) * len(members),
                units=(unit,) * len(members),
                content=content,
                segments=(
                    Segment(binary, frames, channels, first, t_start=t_start, packed=packed, whole=bool(packed)),
                ),
                probe=probe,
                annotations={"experiment_name": experiment},
                notes=(lacking,) if lacking else (),
            ),
        )


def _count(source: Path, relative: str, binary: str, finding: Finding, meta: Mapping[str, str]) -> tuple[int, str]:
    """Return how many frames a file has, and the .ch of a packed one."""
    channels = int(meta["nSavedChans"])
    packed = ""
    if binary.endswith(mtscomp_file.SUFFIX):
        packed = str(Path(binary).with_suffix(mtscomp_file.ABOUT))
        frames = _count_packed(source, packed, binary, channels)
        size = frames * channels * 2
    else:
        frames, size = finding.count_frames(source, binary, channels, 2), (source / binary).stat().st_size
    stated = int(meta.get("fileSizeBytes", size))
    if stated != size and not finding.accept_sizes:
        raise SourceFault(
            f"{source / binary} ends at offset {size} but {source / relative} says fileSizeBytes={stated}: "
            "the file is truncated, or the acquisition crashed; give --accept-sizes to keep what is there"
        )
    return frames, packed


def _count_packed(source: Path, about: str, binary: str, channels: int) -> int:
    """Return the frames of a .cbin; ``SourceFault`` when its .ch is of another file."""
    with Source(source) as files:
        header = mtscomp_file.read_header(files, about)
    size = (source / binary).stat().st_size
    if header.channels != channels or header.dtype != DTYPE:
        raise SourceFault(
            f"{source / about}: says {counted(header.channels, 'channel')} of {header.dtype}, the .meta "
            f"{channels} of i2"
        )
    if header.offsets[-1] != size:
        raise SourceFault(
            f"{source / binary} ends at offset {size} but {source / about} says {header.offsets[-1]}: it was "
            "interrupted; "
            "copy it again"
        )
    return header.frames


def _probe(meta: Path, names: list[str]) -> tuple[Mapping[str, Any] | None, str]:
    """Return the probe of a .meta, that of its AP band for an LF band: the channels are the same."""
    found, lacking = read_spikeglx_probe(meta, len(names))
    above = meta.with_name(meta.name.replace(".lf.", ".ap."))
    if found is None and above != meta and above.is_file():
        try:
            others = [entry.split(";")[0] for entry in parse_table(read_meta(above)["snsChanMap"])[1:]]
        except (KeyError, OSError):
            return None, lacking
        numbers = [re.sub(r"\D", "", name) for name in names]
        if numbers == [name[2:] for name in others if name.startswith("AP")]:
            found, reason = read_spikeglx_probe(above, len(names))
            lacking = lacking if reason else ""
    return found, lacking


def read_gains(meta: Mapping[str, str], names: list[str]) -> tuple[list[float], str]:
    """Return the physical value of one count for each saved channel, and its unit (µV for imec, V otherwise)."""
    kind = meta.get("typeThis", "imec")
    if kind == "nidq":
        step = float(meta["niAiRangeMax"]) / int(meta.get("niMaxInt", "32768"))
        multiplexed, auxiliary, _, _ = (int(count) for count in meta["snsMnMaXaDw"].split(","))
        factors = [float(meta["niMNGain"])] * multiplexed + [float(meta["niMAGain"])] * auxiliary
        factors += [1.0] * (len(names) - len(factors))
        return [step / factor for factor in factors], "V"
    if kind == "obx":
        return [float(meta["obAiRangeMax"]) / int(meta["obMaxInt"])] * len(names), "V"
    return _imec_gains(meta, names), "uV"


def _imec_gains(meta: Mapping[str, str], names: list[str]) -> list[float]:
    table = parse_table(meta.get("imroTbl", ""))
    header, entries = (table[0].split(","), table[1:]) if table else ([], [])
    kind = int(meta.get("imDatPrb_type", "0"))
    most = int(meta.get("imMaxInt", "512" if kind not in _FIXED_GAINS else "8192"))
    step = float(meta["imAiRangeMax"]) / most * 1e6
    band = 4 if any(name.startswith("LF") for name in names) else 3
    gains = []
    for name in names:
        number = re.match(r"(?:AP|LF)(\d+)", name)
        if not number:
            gains.append(step)
        elif kind not in (*_FIXED_GAINS, 1110) and (gain := _gain_of_entry(entries, int(number[1]), band)):
            # Channels may differ; imChan0apGain is that of the first.
            gains.append(step / gain)
        elif "imChan0apGain" in meta:
            key = "imChan0lfGain" if band == 4 and "imChan0lfGain" in meta else "imChan0apGain"
            gains.append(step / float(meta[key]))
        elif kind in _FIXED_GAINS:
            gains.append(step / _FIXED_GAINS[kind])
        elif kind == 1110:
            # Such a probe has one gain for all channels, in the table's header.
            gains.append(step / float(header[band]))
        else:
            raise ValueError(f"imroTbl has no gain of {name}")
    return gains


def _gain_of_entry(entries: list[str], number: int, band: int) -> float:
    """Return a channel's gain in the probe table, 0 where its entry has none.

    By the channel's own number: a saved subset skips entries of the table.
    """
    fields = entries[number].split() if number < len(entries) else []
    return float(fields[band]) if len(fields) > 4 else 0.0
