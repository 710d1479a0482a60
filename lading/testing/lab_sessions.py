"""Three sessions of a small laboratory, and the job list that names them.

Input: an empty directory and a bucket. Output: about 10 MB of raw data (a
probe, a light-sheet stack, behaviour with videos) and ``sessions.csv``.
Invariant: the same bytes each time; nothing here is read by the product.
"""

import csv
import json
from pathlib import Path

import numpy as np
import tifffile

SEED = 20240528
HEADER = (
    "job_type", "project_name", "platform", "subject_id", "acq_datetime", "s3_bucket",
    "modality0", "modality0.source", "modality1", "modality1.source", "metadata_dir",
)  # fmt: skip


def make_sessions(directory: Path, bucket: str, *, seconds: float = 1.0, planes: int = 32) -> Path:
    """Write the raw data of three sessions and return the job list over them."""
    random = np.random.default_rng(SEED)
    directory.mkdir(parents=True, exist_ok=True)
    write_recording(directory / "probe", random, seconds)
    write_stack(directory / "stack", random, planes)
    write_behavior(directory / "behavior", directory / "videos", random)
    write_metadata(directory / "metadata", "123456")
    project = "Example project"
    rows = (
        ("default", project, "ecephys", "123454", "2024-05-27 16:07:59", bucket, "ecephys", "probe", "", "", ""),
        ("default", project, "SmartSPIM", "123455", "2024-05-28T10:00:00", bucket, "SPIM", "stack", "", "", ""),
        ("default", project, "behavior", "123456", "05/29/2024 9:30:00 AM", bucket,
         "behavior", "behavior", "behavior-videos", "videos", "metadata"),
    )  # fmt: skip
    path = directory / "sessions.csv"
    with open(path, "w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream).writerows([HEADER, *rows])
    return path


def write_recording(node: Path, random: np.random.Generator, seconds: float, channels: int = 32) -> None:
    """Write an Open Ephys binary recording: interleaved int16 with its JSON beside it."""
    recording = node / "Record Node 101" / "experiment1" / "recording1"
    stream = recording / "continuous" / "Neuropix-PXI-100.ProbeA-AP"
    stream.mkdir(parents=True)
    samples = int(30_000 * seconds)
    walk = random.normal(0, 8, (samples, channels)).cumsum(axis=0) * 0.05
    (walk + random.normal(0, 6, (samples, channels))).astype("<i2").tofile(stream / "continuous.dat")
    np.save(stream / "sample_numbers.npy", np.arange(samples, dtype="<i8"))
    np.save(stream / "timestamps.npy", np.arange(samples) / 30_000)
    names = [{"channel_name": f"AP{i + 1}", "bit_volts": 0.195, "units": "uV"} for i in range(channels)]
    entry = {"folder_name": f"{stream.name}/", "sample_rate": 30000, "num_channels": channels, "channels": names}
    (recording / "structure.oebin").write_text(json.dumps({"GUI version": "0.6.7", "continuous": [entry]}, indent=1))


def write_stack(directory: Path, random: np.random.Generator, planes: int) -> None:
    """Write a light-sheet style stack, one TIFF a plane."""
    directory.mkdir(parents=True)
    y, x = np.mgrid[0:192, 0:192]
    for plane in range(planes):
        blob = 3000 * np.exp(-((x - 80 - plane) ** 2 + (y - 96) ** 2) / 900.0)
        tifffile.imwrite(directory / f"plane_{plane:05d}.tif", random.poisson(100 + blob).astype("uint16"))


def write_behavior(behavior: Path, videos: Path, random: np.random.Generator) -> None:
    """Write trial tables and things that look like videos."""
    behavior.mkdir(parents=True)
    videos.mkdir(parents=True)
    (behavior / "trials.csv").write_text("trial,choice\n" + "".join(f"{n},{n % 2}\n" for n in range(2000)))
    (behavior / "rig notes.txt").write_text("water spout moved by 2 mm\n")
    (videos / "face.avi").write_bytes(b"RIFF" + random.bytes(1_500_000))
    (videos / "body.mp4").write_bytes(b"\0\0\0\x18ftypmp42" + random.bytes(1_000_000))


def write_metadata(directory: Path, subject_id: str) -> None:
    """Write a prepared procedures file."""
    directory.mkdir(parents=True)
    (directory / "procedures.json").write_text(json.dumps({"subject_id": subject_id, "subject_procedures": []}))
