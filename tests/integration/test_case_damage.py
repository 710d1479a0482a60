"""Sources cut at any place and with flipped bits: a sentence, no traceback, and nothing that looks finished."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from lading.cli import compress as command
from lading.compress import launcher
from lading.core.errors import LadingError
from lading.testing.ephys_data import make_samples, write_openephys, write_spikeglx
from tests import neo_files
from tests.images import light_sheet, write_imaris
from tests.integration.test_case_data import CYX, write_ngff, write_views
from tests.integration.test_case_recordings import add_series
from tests.integration.test_image_sets import tiff_set, write_mmstack, write_ndtiff, write_png
from tests.integration.test_mtscomp import pack
from tests.integration.test_n5 import XML as N5_XML
from tests.integration.test_n5 import write_dataset, write_viewer

DAMAGED = True  # tests/conftest.py: on what numbers that make no sense mean, two parsers need not agree
SMALL = ["--chunk", "8,8,16", "--shard", "16,32,32", "--levels", "1"]


def open_ephys(top: Path) -> None:
    write_openephys(top, {"Neuropix-PXI-100.ProbeA-AP": make_samples(300, 8, 0, units=3)})


def spikeglx(top: Path) -> None:
    write_spikeglx(top, make_samples(300, 384, 0, units=3))


def nwb(top: Path) -> None:
    with h5py.File(top / "s.nwb", "w") as file:
        series = add_series(file, "acquisition/ES", make_samples(300, 8, 0, units=3), timestamps=np.arange(300) / 3e4)
        record = np.dtype([("count", "i4"), ("timeseries", h5py.ref_dtype)])
        file["epochs"] = np.array([(5, series.ref)], dtype=record)


def ome_tiff(top: Path) -> None:
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "TimeIncrement": 5}
    tifffile.imwrite(top / "s.ome.tif", CYX, photometric="minisblack", metadata=metadata)
    for number, plane in enumerate(CYX):
        (top / "series").mkdir(exist_ok=True)
        tifffile.imwrite(top / "series" / f"p{number:03d}.tif", plane, compression="zlib")


def volumes(top: Path) -> None:
    write_imaris(top / "a.ims", light_sheet((1, 1, 6, 20, 30)), (2.0, 0.5, 0.5))
    write_views(top / "b.h5", {(t, 1): np.full((4, 8, 9), 40000, "u2") for t in (3, 4)})
    (top / "b.xml").write_text("<SpimData><hdf5>b.h5</hdf5><ViewSetup><id>1</id></ViewSetup></SpimData>")
    write_ngff(top / "c.ome.zarr")


def systems(top: Path) -> None:
    """What python-neo reads: headers of text, of numbers, and HDF5."""
    for write in (neo_files.intan, neo_files.neuralynx, neo_files.blackrock, neo_files.spikegadgets, neo_files.biocam):
        (top / write.__name__).mkdir()
        write(top / write.__name__)


def sets(top: Path) -> None:
    (top / "set").mkdir()
    tiff_set(top / "set", light_sheet((4, 20, 30)), ["a.ome.tif", "a_1.ome.tif"])
    for z, plane in enumerate(light_sheet((3, 20, 30))):
        write_png(top / f"p{z}.png", plane, (0, 1, 2, 4))


def more_systems(top: Path) -> None:
    """Packets, indexes, zones and columns."""
    for write in (
        neo_files.axona, neo_files.micromed, neo_files.neuroexplorer, neo_files.plexon, neo_files.tdt, neo_files.winwcp,
        neo_files.axon, neo_files.axograph, neo_files.openephys_classic, neo_files.mcsraw, neo_files.neuronexus,
    ):  # fmt: skip
        (top / write.__name__).mkdir()
        write(top / write.__name__)


def containers(top: Path) -> None:
    write_viewer(top / "scan.n5", light_sheet((2, 9, 20, 24)), (1, 4), (3, 4))
    (top / "scan.xml").write_text(N5_XML.format(name="scan.n5"))
    write_dataset(
        top / "one.n5/volume", light_sheet((7, 18, 33)), {"type": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}
    )
    (top / "one.n5/attributes.json").write_text('{"n5": "2.0.0"}')


def positions(top: Path) -> None:
    stack = light_sheet((2, 3, 2, 40, 50))
    for folder, write in (("a", write_mmstack), ("b", write_ndtiff)):
        (top / folder).mkdir()
        write(top / folder, stack)
    with tifffile.TiffWriter(top / "x.ome.tif") as file:
        for axes in ("ZYX", "CYX"):
            file.write(CYX, photometric="minisblack", metadata={"axes": axes, "PhysicalSizeX": 0.5})
    tifffile.imwrite(top / "ij.tif", CYX, imagej=True, metadata={"axes": "ZYX", "spacing": 2.0, "unit": "um"})


def packed(top: Path) -> None:
    pack(top)


WRITERS = {
    open_ephys: "ephys", spikeglx: "ephys", nwb: "ephys", ome_tiff: "imaging", volumes: "imaging",
    systems: "ephys", sets: "imaging", more_systems: "ephys", containers: "imaging", positions: "imaging",
    packed: "ephys",
}  # fmt: skip


def spoil(path: Path, chance: random.Random) -> None:
    """Cut a file anywhere, or flip bits in its first 20 kB, where the metadata are."""
    content = bytearray(path.read_bytes())
    if chance.random() < 0.3:
        content = content[: chance.randrange(len(content) + 1)]
    for _ in range(chance.choice([1, 10])):
        if content:
            content[chance.randrange(min(len(content), 20_000))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


@pytest.mark.parametrize("rounds", [6, pytest.param(60, marks=pytest.mark.long)])
@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_any_damage_is_a_sentence(
    write: Callable[[Path], None],
    rounds: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))
    whole = tmp_path / "whole"
    whole.mkdir()
    write(whole)
    files = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    kind = WRITERS[write]
    outcomes = set()
    for seed in range(rounds):
        chance = random.Random(seed)
        source, out = tmp_path / f"in{seed}", tmp_path / f"out{seed}"
        shutil.copytree(whole, source)
        spoil(source / chance.choice(files), chance)
        arguments = [str(source), str(out), "--kind", kind, "--workers", "1", *(SMALL if kind == "imaging" else [])]
        try:
            code = command.main(arguments)
        except LadingError as error:
            code = error.exit_code if str(error) else -1
        outcomes.add(code)
        said = capfd.readouterr().err
        assert "Traceback" not in said, (seed, said)
        assert code == 0 or not (out / "compress.json").exists(), seed
    assert outcomes <= {0, 1, 2, 3}
