"""A small lab tree with what real ones hold: a recording, a stack, a video, odd names.

Input: an empty directory. Output: about 25 MB in 300 files, the same bytes
each time (fixed seed).
Invariant: nothing here is read by the product; it only has to look like what
laboratories keep.
"""

import json
import os
from pathlib import Path

import numpy as np
import tifffile

SEED = 20240527

# Shell and glob signs, quotes, a leading dash, non-ASCII, and bytes that are no UTF-8.
ODD_NAMES = (
    b"-rf",
    b"a b",
    b"it's.txt",
    b'say "hi".txt',
    b"new\nline",
    b"what?*[x]",
    b"$HOME; echo",
    b"100%25+#&=@.bin",
    "µm-größe-図.txt".encode(),
    b"latin-\xe9.txt",
)


def make_release(release: Path) -> None:
    """Fill ``release`` with the sessions of a small laboratory."""
    random = np.random.default_rng(SEED)
    _write_recording(release / "ephys" / "session_2024-05-27" / "Record Node 101", random)
    _write_stack(release / "imaging" / "tile_000", random)
    _write_video(release / "behavior" / "videos", random)
    _write_spectra(release / "spectro" / "data", random)
    _write_odd_names(release / "odd names")


def _write_recording(node: Path, random: np.random.Generator) -> None:
    """An Open Ephys style recording: interleaved int16 with its JSON beside it."""
    recording = node / "experiment1" / "recording1"
    stream = recording / "continuous" / "Neuropix-PXI-100.ProbeA-AP"
    stream.mkdir(parents=True)
    samples, channels = 30_000, 64
    walk = random.normal(0, 8, (samples, channels)).cumsum(axis=0) * 0.05
    data = (walk + random.normal(0, 6, (samples, channels))).astype("<i2")
    data.tofile(stream / "continuous.dat")
    np.save(stream / "sample_numbers.npy", np.arange(samples, dtype="<i8"))
    np.save(stream / "timestamps.npy", np.arange(samples) / 30_000)
    (recording / "structure.oebin").write_text(
        json.dumps(
            {
                "GUI version": "0.6.7",
                "continuous": [
                    {
                        "folder_name": f"{stream.name}/",
                        "sample_rate": 30000,
                        "num_channels": channels,
                        "channels": [
                            {"channel_name": f"AP{i + 1}", "bit_volts": 0.195, "units": "uV"} for i in range(channels)
                        ],
                    }
                ],
            },
            indent=1,
        )
    )


def _write_stack(directory: Path, random: np.random.Generator) -> None:
    """A light-sheet style stack, one TIFF a plane."""
    directory.mkdir(parents=True)
    y, x = np.mgrid[0:256, 0:256]
    for plane in range(64):
        blob = 3000 * np.exp(-((x - 100 - plane) ** 2 + (y - 128) ** 2) / 900.0)
        image = random.poisson(100 + blob).astype("uint16")
        tifffile.imwrite(directory / f"plane_{plane:05d}.tif", image)


def _write_video(directory: Path, random: np.random.Generator) -> None:
    directory.mkdir(parents=True)
    (directory / "camera_left.avi").write_bytes(b"RIFF" + random.bytes(3_000_000))
    (directory / "camera_left.csv").write_text("frame,time\n" + "".join(f"{i},{i / 60:.4f}\n" for i in range(5000)))


def _write_spectra(directory: Path, random: np.random.Generator) -> None:
    for night in range(20240501, 20240511):
        folder = directory / str(night)
        folder.mkdir(parents=True)
        for exposure in range(20):
            size = int(random.lognormal(10, 1))
            (folder / f"desi-{night % 1000:03d}{exposure:05d}.fits.fz").write_bytes(random.bytes(size))


def _write_odd_names(directory: Path) -> None:
    directory.mkdir(parents=True)
    for number, name in enumerate(ODD_NAMES):
        with open(os.path.join(os.fsencode(directory), name), "wb") as stream:
            stream.write(b"odd name %d\n" % number)
    (directory / "empty").write_bytes(b"")
    (directory / "empty directory").mkdir()
    (directory / "link to a plane").symlink_to("../imaging/tile_000/plane_00000.tif")
