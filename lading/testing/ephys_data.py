"""Generated recordings: Neuropixels-like samples in the acquisition systems' own formats.

Input: shapes and a seed. Output: int16 samples, and directories as Open Ephys
(binary, GUI 0.6) and SpikeGLX (phase 3B metadata) write them.
Invariant: equal arguments give equal bytes.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
RATE = 30_000
# µV per count: Neuropixels 1.0 AP band at gain 500 (1.2 V / 1024 / 500), as both systems report it.
MICROVOLTS = 2.34375


def make_samples(
    frames: int, channels: int, seed: int = 0, *, step: int = 1, offset: int = 0, units: int = 200
) -> Samples:
    """Return band-limited, spatially correlated noise of about 10 µV with spikes, int16 (frames, channels).

    ``step`` and ``offset`` put the samples on the grid that Open Ephys writes:
    multiples of 12 around an offset of each channel's own.
    """
    generator = np.random.default_rng(seed)
    result = np.empty((frames, channels), np.int16)
    # An offset belongs to the channel, not to the recording: independent of the seed.
    shifts = np.random.default_rng(offset).integers(-offset, offset + 1, channels)
    templates = _templates(generator, channels, units)
    for start in range(0, frames, RATE):
        stop = min(frames, start + RATE)
        result[start:stop] = _second(generator, stop - start, channels, templates) * step + shifts
    return result


def _second(
    generator: np.random.Generator, frames: int, channels: int, templates: list[tuple[int, NDArray[np.float32]]]
) -> Samples:
    noise = generator.standard_normal((frames + 8, channels + 6), dtype=np.float32)
    # Neighbours share about half of their noise; the spectrum falls off towards the band's edge.
    mixed = noise[:, 3:-3] + 0.5 * (noise[:, 2:-4] + noise[:, 4:-2]) + 0.25 * (noise[:, 1:-5] + noise[:, 5:-1])
    smooth = sum(weight * mixed[at : at + frames] for at, weight in enumerate((0.2, 0.6, 1.0, 1.0, 0.6, 0.2)))
    values = smooth * np.float32(10 / MICROVOLTS / 2.3)
    for channel, template in templates:
        for at in generator.integers(0, max(1, frames - len(template)), generator.poisson(8 * frames / RATE)):
            width = min(template.shape[1], channels - channel)
            values[at : at + len(template), channel : channel + width] += template[: frames - at, :width]
    rounded: Samples = np.round(values).astype(np.int16)
    return rounded


def _templates(generator: np.random.Generator, channels: int, units: int) -> list[tuple[int, NDArray[np.float32]]]:
    time = np.arange(60, dtype=np.float32)
    found = []
    for _ in range(units):
        shape = -np.exp(-((time - 20) ** 2) / 18) + 0.4 * np.exp(-((time - 34) ** 2) / 80)
        spread = np.exp(-np.abs(np.arange(12) - 6) / 2.5)
        height = generator.uniform(40, 250) / MICROVOLTS
        template = (height * np.outer(shape, spread)).astype(np.float32)
        found.append((int(generator.integers(0, max(1, channels - 12))), template))
    return found


def _describe_stream(name: str, labels: list[str], volts: list[float], rate: float) -> dict[str, Any]:
    """Return the entry of a stream in structure.oebin."""
    return {
        "folder_name": f"{name}/",
        "sample_rate": float(rate),
        "source_processor_name": name.split("-")[0],
        "source_processor_id": 100,
        "stream_name": name.split(".")[-1],
        "recorded_processor": "Record Node",
        "recorded_processor_id": 101,
        "num_channels": len(labels),
        "channels": [
            {
                "channel_name": label,
                "description": "data channel",
                "identifier": "genericdata.continuous",
                "history": "generated",
                "bit_volts": value,
                "units": "V" if "NI-DAQ" in name else "uV",
            }
            for label, value in zip(labels, volts)
        ],
    }


def _write_clock(folder: Path, counts: NDArray[np.int64], rate: float, synchronised: bool) -> None:
    """Write the sample numbers and times of a stream."""
    np.save(folder / "sample_numbers.npy", counts)
    times = counts / rate * 1.0000001 + 0.25 if synchronised else np.full(len(counts), -1.0)
    np.save(folder / "timestamps.npy", times)


def _write_events(directory: Path) -> None:
    """Write two events of a recording of Open Ephys."""
    events = directory / "events" / "generated-100.TTL"
    events.mkdir(parents=True)
    np.save(events / "timestamps.npy", np.array([3.5, 3.6]))
    np.save(events / "sample_numbers.npy", np.array([105_000, 108_000], dtype=np.int64))
    np.save(events / "states.npy", np.array([1, -1], dtype=np.int16))


def write_openephys(
    root: Path,
    streams: dict[str, Samples],
    *,
    node: str = "Record Node 101",
    experiment: int = 1,
    recording: int = 1,
    rate: float = RATE,
    first_sample: int = 90_000,
    synchronised: bool = True,
    sync_channel: bool = True,
    probe: bool = True,
) -> Path:
    """Write one recording as Open Ephys does (GUI 0.6); returns its directory.

    ``streams`` maps folder names such as ``Neuropix-PXI-100.ProbeA-AP`` or
    ``NI-DAQmx-103.PXI-6133`` to samples (frames, channels). Neuropixels
    streams get a SYNC channel at the end.
    """
    directory = root / node / f"experiment{experiment}" / f"recording{recording}"
    described = []
    for name, samples in streams.items():
        folder = directory / "continuous" / name
        folder.mkdir(parents=True)
        daq = "NI-DAQ" in name
        labels = [f"{'AI' if daq else 'CH'}{number if daq else number + 1}" for number in range(samples.shape[1])]
        volts: list[float] = [0.000152587890625 if daq else 0.195] * len(labels)
        if sync_channel and not daq:
            toggles = (np.arange(len(samples)) // 500 % 2).astype(np.int16)
            samples = np.concatenate([samples, toggles[:, None]], axis=1)
            labels.append("AP_SYNC")
            volts.append(1.0)
        samples.astype("<i2").tofile(folder / "continuous.dat")
        _write_clock(folder, np.arange(first_sample, first_sample + len(samples), dtype=np.int64), rate, synchronised)
        described.append(_describe_stream(name, labels, volts, rate))
    _write_events(directory)
    structure = {
        "GUI version": "0.6.7",
        "continuous": described,
        "events": [
            {
                "folder_name": "generated-100.TTL/",
                "channel_name": "TTL",
                "description": "generated",
                "identifier": "ttl",
                "sample_rate": float(rate),
                "type": "int16",
                "source_processor": "generated",
                "stream_name": "TTL",
                "initial_state": 0,
            }
        ],
        "spikes": [],
    }
    (directory / "structure.oebin").write_text(json.dumps(structure, indent=1))
    settings = root / node / ("settings.xml" if experiment == 1 else f"settings_{experiment}.xml")
    if not settings.exists():
        settings.write_text(_settings(streams) if probe else "<SETTINGS/>")
    return directory


def _settings(streams: dict[str, Samples]) -> str:
    """Return the part of settings.xml that describes the probes: electrodes in two columns, 20 µm apart."""
    probes, names = [], []
    for name, samples in streams.items():
        if "Probe" not in name:
            continue
        names.append(f'<STREAM name="{name.split(".")[-1]}" description="generated" sample_rate="{RATE}"/>')
        channels = samples.shape[1]
        numbers = " ".join(f'CH{number}="0"' for number in range(channels))
        across = " ".join(f'CH{number}="{(27, 59, 11, 43)[number % 4]}"' for number in range(channels))
        along = " ".join(f'CH{number}="{20 * (number // 2)}"' for number in range(channels))
        probes.append(
            f'<NP_PROBE slot="2" port="1" dock="1" basestation_firmware_version="2.0" bs_part_number="NP2_QBSC_00" '
            f'probe_serial_number="19108300001" probe_part_number="NP1010" probe_name="Neuropixels 1.0" '
            f'num_adcs="32" apGainValue="500x" lfpGainValue="250x" referenceChannel="Ext" filterCut="ON">'
            f"<CHANNELS {numbers}/><ELECTRODE_XPOS {across}/><ELECTRODE_YPOS {along}/></NP_PROBE>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<SETTINGS><INFO><VERSION>0.6.7</VERSION><PLUGIN_API_VERSION>8'
        '</PLUGIN_API_VERSION></INFO><SIGNALCHAIN><PROCESSOR name="Neuropix-PXI" insertionPoint="0" '
        'pluginName="Neuropix-PXI" type="2" libraryName="Neuropixels PXI" libraryVersion="0.6.1" nodeId="100">'
        + "".join(names)
        + "<EDITOR>"
        + "".join(probes)
        + "</EDITOR></PROCESSOR></SIGNALCHAIN></SETTINGS>\n"
    )


def write_spikeglx(
    root: Path, samples: Samples, *, run: str = "run", gate: int = 0, trigger: int = 0, first_sample: int = 3_000
) -> Path:
    """Write AP and LF of one Neuropixels 1.0 probe and an NI-DAQ file; returns the run's directory.

    ``samples`` are AP (frames, channels); LF is every twelfth frame, each file
    with its sync word; NI-DAQ has three analog channels and a digital word.
    """
    directory = root / f"{run}_g{gate}"
    stem = f"{run}_g{gate}_t{trigger}"
    probe = directory / f"{run}_g{gate}_imec0"
    probe.mkdir(parents=True, exist_ok=True)
    channels = samples.shape[1]
    for band, values, rate in (("ap", samples, RATE), ("lf", samples[::12], RATE // 12)):
        toggles = (np.arange(len(values)) // 500 % 2 * 64).astype(np.int16)
        name = probe / f"{stem}.imec0.{band}"
        np.concatenate([values, toggles[:, None]], axis=1).astype("<i2").tofile(f"{name}.bin")
        label = band.upper()
        counts = (channels, 0) if band == "ap" else (0, channels)
        entries = "".join(f"({label}{n};{n}:{n})" for n in range(channels)) + f"(SY0;{channels}:{channels})"
        fields: dict[str, Any] = {
            "appVersion": "20230323",
            "fileName": f"D:/{stem}.imec0.{band}.bin",
            "fileSizeBytes": Path(f"{name}.bin").stat().st_size,
            "firstSample": first_sample // (1 if band == "ap" else 12),
            "imAiRangeMax": 0.6,
            "imAiRangeMin": -0.6,
            "imDatPrb_pn": "NP1010",
            "imDatPrb_slot": 2,
            "imDatPrb_port": 1,
            "imDatPrb_sn": 19108300001,
            "imDatPrb_type": 0,
            "imMaxInt": 512,
            "imSampRate": rate,
            "nSavedChans": channels + 1,
            "snsApLfSy": f"{counts[0]},{counts[1]},1",
            "snsSaveChanSubset": f"0:{channels - 1},768",
            "typeThis": "imec",
            "~imroTbl": f"(0,{channels})" + "".join(f"({n} 0 0 500 250 1)" for n in range(channels)),
            "~snsChanMap": f"({counts[0]},{counts[1]},1)" + entries,
            "~snsGeomMap": "(NP1010,1,0,70)"
            + "".join(f"(0:{(27, 59, 11, 43)[n % 4]}:{20 * (n // 2)}:1)" for n in range(channels)),
        }
        Path(f"{name}.meta").write_text("".join(f"{key}={value}\n" for key, value in fields.items()))
    _write_daq(directory, stem, len(samples), gate * 1000 + trigger, first_sample)
    return directory


def _write_daq(directory: Path, stem: str, frames: int, seed: int, first_sample: int) -> None:
    """Write the NI-DAQ file of a SpikeGLX run with its metadata."""
    generator = np.random.default_rng(seed)
    analog = generator.integers(-2000, 2000, (frames, 3))
    words = generator.integers(0, 8, (frames, 1))
    np.concatenate([analog, words], axis=1).astype("<i2").tofile(directory / f"{stem}.nidq.bin")
    fields: dict[str, Any] = {
        "fileName": f"D:/{stem}.nidq.bin",
        "fileSizeBytes": (directory / f"{stem}.nidq.bin").stat().st_size,
        "firstSample": first_sample,
        "nSavedChans": 4,
        "niAiRangeMax": 5,
        "niAiRangeMin": -5,
        "niMaxInt": 32768,
        "niMAGain": 1,
        "niMNGain": 200,
        "niSampRate": RATE,
        "niXDChans1": "0:2",
        "snsMnMaXaDw": "0,0,3,1",
        "snsSaveChanSubset": "0:3",
        "typeThis": "nidq",
        "~snsChanMap": "(0,0,0,3,1)(XA0;0:0)(XA1;1:1)(XA2;2:2)(XD0;3:3)",
    }
    (directory / f"{stem}.nidq.meta").write_text("".join(f"{key}={value}\n" for key, value in fields.items()))
