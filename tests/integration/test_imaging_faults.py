"""Damaged sources, flipped bits, full disks: one sentence with file and place, nothing that looks finished."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from lading.compress import state
from lading.compress.buffers import scratch_buffer
from lading.compress.destination import DirectoryDestination
from lading.compress.imaging import imaging_plan as imaging
from lading.compress.imaging import ome_zarr as omezarr
from lading.compress.imaging import tiff
from lading.compress.imaging.tiff import TiffReader
from lading.compress.imaging.volume import Window
from lading.compress.job import SourceFault, UnitRecord, VerificationFailed
from lading.compress.sources import Source
from lading.coordination.claims import CompletionRecords
from lading.core.errors import LadingError, UsageError
from tests.conftest import REPOSITORY
from tests.images import light_sheet, write_imaris
from tests.kinds import compress, plan_job

SMALL: dict[str, Any] = {"chunk": "8,16,16", "shard": "16,32,32"}


def require_unfinished(out: Path) -> None:
    """No directory below ``out`` opens as an image."""
    for image in out.glob("*.ome.zarr"):
        with pytest.raises(FileNotFoundError):
            zarr.open_group(image, mode="r")


def sentence_of(source: Path, out: Path, **options: Any) -> str:
    with pytest.raises(SourceFault) as caught:
        compress("imaging", source, out, **SMALL, **options)
    require_unfinished(out)
    return str(caught.value)


def write_pages(path: Path, voxels: np.ndarray, **options: Any) -> list[tuple[int, int]]:
    """Write pages apart from each other; returns (offset, length) of each."""
    with tifffile.TiffWriter(path) as writer:
        for plane in voxels:
            writer.write(plane, contiguous=False, metadata=None, **options)
    with tifffile.TiffFile(path) as tiff:
        return [(page.dataoffsets[0], page.databytecounts[0]) for page in tiff.pages]


def test_corrupt_page_in_the_middle(tmp_path: Path) -> None:
    places = write_pages(tmp_path / "a.tif", light_sheet((20, 40, 50)), compression="zlib")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    offset, length = places[11]
    data[offset + length // 2 : offset + length // 2 + 40] = os.urandom(40)
    (tmp_path / "a.tif").write_bytes(data)
    message = sentence_of(tmp_path / "a.tif", tmp_path / "out")
    assert message.startswith(f"{tmp_path / 'a.tif'}: page 11 (offset {offset}) cannot be decoded")
    assert "\n" not in message


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("contiguous", [True, False])
def test_truncated_stack(contiguous: bool, compression: str | None, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    if contiguous:
        tifffile.imwrite(path, light_sheet((20, 40, 50)), compression=compression)
    else:
        write_pages(path, light_sheet((20, 40, 50)), compression=compression)
    size = path.stat().st_size
    for keep in (0.9, 0.5, 0.1):
        os.truncate(path, int(size * keep))
        message = sentence_of(path, tmp_path / f"out{keep}")
        assert message.startswith(f"{path}: ")
        assert str(int(size * keep)) in message, "the length of the file is told"
        assert "\n" not in message
    os.truncate(path, 0)
    assert sentence_of(path, tmp_path / "empty") == f"{path}: is empty (0 bytes); restore the file or leave it out"


def test_mixed_shapes_in_one_file(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for shape in ((40, 50), (40, 50), (40, 60)):
            writer.write(np.zeros(shape, "u2"), metadata=None, contiguous=False)
    message = sentence_of(tmp_path / "a.tif", tmp_path / "out")
    assert "page 0 is 40 × 50 uint16, page 2 is 40 × 60 uint16" in message


def test_every_fault_of_a_series_at_once(tmp_path: Path) -> None:
    top = tmp_path / "in"
    top.mkdir()
    for z in range(8):
        tifffile.imwrite(top / f"z{z:02d}.tif", np.zeros((30, 30), "u2"))
    tifffile.imwrite(top / "z03.tif", np.zeros((30, 31), "u2"))
    tifffile.imwrite(top / "z05.tif", np.zeros((30, 30), "u1"))
    message = sentence_of(top, tmp_path / "out")
    usual, rule = "where the others are 30 × 30 uint16", "all planes of an image must have one shape"
    assert message.splitlines() == [
        f"{top}/z03.tif: page 0 is 30 × 31 uint16 {usual}; {rule}",
        f"{top}/z05.tif: page 0 is 30 × 30 uint8 {usual}; {rule}",
    ]
    (top / "z04.tif").write_bytes(b"II*\0junk")
    (top / "z06.tif").write_bytes(b"")
    lines = sentence_of(top, tmp_path / "out").splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{top}/z04.tif", f"{top}/z06.tif"]


def test_missing_plane(tmp_path: Path) -> None:
    top = tmp_path / "in"
    top.mkdir()
    for z in (0, 20, 40, 80, 100):
        tifffile.imwrite(top / f"s_{z:05d}.tif", np.full((30, 30), z, "u2"))
    message = sentence_of(top, tmp_path / "out")
    assert message.startswith(f"{top}: plane z 60 is missing (between 40 and 80); restore it, or pass --allow-gaps")
    told, _ = compress("imaging", top, tmp_path / "out2", allow_gaps=True, **SMALL)
    assert told["images"][0]["shape_tczyx"] == (1, 1, 5, 30, 30)
    for c in range(2):
        for z in range(3):
            tifffile.imwrite(tmp_path / f"c{c}_z{z}.tif", np.zeros((9, 9), "u2"))
    (tmp_path / "c1_z2.tif").rename(tmp_path / "in" / "other.tif")
    for path in top.iterdir():
        path.unlink()
    assert "plane c 1, z 2 is missing (1 of 6 are)" in sentence_of(tmp_path, tmp_path.with_name(tmp_path.name + "o"))


def test_zero_planes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "readme.txt").write_text("x")
    assert "holds no image (TIFF, PNG, .ims, HDF5, N5 or Zarr), so there are no planes" in sentence_of(
        tmp_path / "in", tmp_path / "o"
    )
    (tmp_path / "in" / "a.tif").write_bytes(b"II*\0\0\0\0\0")  # a header and no page
    assert f"{tmp_path}/in/a.tif: " in sentence_of(tmp_path / "in", tmp_path / "o")
    with h5py.File(tmp_path / "in" / "e.h5", "w") as file:
        file.create_dataset("v", shape=(0, 10, 10), dtype="u2")
    (tmp_path / "in" / "a.tif").unlink()
    assert "e.h5: has no voxels (axis z is 0)" in sentence_of(tmp_path / "in", tmp_path / "o")


def test_truncated_imaris_and_hdf5(tmp_path: Path) -> None:
    write_imaris(tmp_path / "a.ims", light_sheet((1, 1, 40, 60, 60)), (1, 1, 1))
    os.truncate(tmp_path / "a.ims", (tmp_path / "a.ims").stat().st_size // 2)
    message = sentence_of(tmp_path / "a.ims", tmp_path / "out")
    assert message.startswith(f"{tmp_path / 'a.ims'}: is not a readable HDF5 file")
    assert "truncated" in message
    (tmp_path / "b.h5").write_bytes(b"not hdf5")
    assert "b.h5: is not a readable HDF5 file" in sentence_of(tmp_path / "b.h5", tmp_path / "out")


def test_damaged_hdf5_chunk_names_dataset_and_window(tmp_path: Path) -> None:
    voxels = light_sheet((40, 40, 40))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        data = file.create_dataset("vol", data=voxels, chunks=(8, 40, 40), compression="gzip")
        place = data.id.get_chunk_info(3)
    raw = bytearray((tmp_path / "a.h5").read_bytes())
    raw[place.byte_offset + 20 : place.byte_offset + 90] = os.urandom(70)
    (tmp_path / "a.h5").write_bytes(raw)
    message = sentence_of(tmp_path / "a.h5", tmp_path / "out")
    assert message.startswith(f"{tmp_path / 'a.h5'}: dataset /vol cannot be read at t 0, c 0, z 16:32")


def test_voxels_that_no_mean_or_codec_fits(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 20, 20), "i8"))
    assert "voxels are int64, which is not an intensity" in sentence_of(tmp_path / "a.tif", tmp_path / "out")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((5, 20, 20), "c8"))
    assert "complex64" in sentence_of(tmp_path / "b.tif", tmp_path / "out")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((5, 20, 20), "u1"))
    with pytest.raises(UsageError, match="codec pcodec cannot hold uint8 voxels"):
        plan_job("imaging", tmp_path / "c.tif", tmp_path / "out", codec="pcodec", ngff="0.4")


def test_flipped_bit_in_the_source_file_after_reading_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, light_sheet((9, 40, 50)))
    with tifffile.TiffFile(path) as tiff:
        offset = tiff.series[0].dataoffset + (8 * 40 * 50 + 3 * 50 + 4) * 2
    status = path.stat()
    original = omezarr.write_box

    def write_then_flip(place: Any, directory: str, window: Any, block: np.ndarray) -> None:
        original(place, directory, window, block)
        monkeypatch.setattr(omezarr, "write_box", original)
        with open(path, "r+b") as stream:
            stream.seek(offset)
            byte = stream.read(1)[0]
            stream.seek(offset)
            stream.write(bytes([byte ^ 1]))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # a disk does not tell

    monkeypatch.setattr(omezarr, "write_box", write_then_flip)
    with pytest.raises(
        VerificationFailed, match=r"source and output differ at t 0, c 0, z 8, y 3, x 4 .*, voxels that differ: 1"
    ):
        compress("imaging", path, tmp_path / "out", **SMALL)
    require_unfinished(tmp_path / "out")


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_flipped_bit_in_memory_before_writing_is_caught(
    version: str, level: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((9, 40, 50)))
    original = omezarr.write_box

    def flip_and_write(place: Any, directory: str, window: Any, block: np.ndarray) -> None:
        if directory.endswith(f"/{level}"):
            block = block.copy()
            block.flat[7] ^= 1
        original(place, directory, window, block)

    monkeypatch.setattr(omezarr, "write_box", flip_and_write)
    with pytest.raises(
        VerificationFailed,
        match=rf"/{level}: .* differ at t 0, c 0, z 0, y 0, x 7 .*, voxels that differ: 1; run",
    ):
        compress("imaging", tmp_path / "a.tif", tmp_path / "out", levels=3, ngff=version, **SMALL)
    require_unfinished(tmp_path / "out")


def test_flipped_bit_in_a_mean_that_waits_in_memory_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((30, 40, 50)))
    original = DirectoryDestination.drop_cache

    def settle_then_flip(place: DirectoryDestination) -> None:
        original(place)
        monkeypatch.setattr(DirectoryDestination, "drop_cache", original)
        scratch_buffer("mean", np.dtype("u2"), (1,))[0] ^= 1

    monkeypatch.setattr(DirectoryDestination, "drop_cache", settle_then_flip)
    with pytest.raises(VerificationFailed, match=r"the mean of t 0, c 0, z 0:8, y 0:16, x 0:.* changed in memory"):
        compress("imaging", tmp_path / "a.tif", tmp_path / "out", levels=2, **SMALL)
    require_unfinished(tmp_path / "out")


def test_a_row_that_a_reader_leaves_out_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((9, 40, 50)))
    original = TiffReader.read

    def read_with_gap(reader: TiffReader, window: Window, level: int = 0, out: Any = None) -> np.ndarray:
        row = out[2, 3].copy()
        original(reader, window, level, out)
        out[2, 3] = row
        return out

    monkeypatch.setattr(TiffReader, "read", read_with_gap)
    with pytest.raises(VerificationFailed, match=r"source and output differ at t 0, c 0, z 2, y 3, x 0 "):
        compress("imaging", tmp_path / "a.tif", tmp_path / "out", **SMALL)
    require_unfinished(tmp_path / "out")


def test_markers_of_a_lost_plan_do_not_count_for_the_next(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((9, 40, 50)))
    job, _ = plan_job("imaging", tmp_path / "a.tif", tmp_path / "out", **SMALL)
    shutil.rmtree(tmp_path / "out")
    planned = state.prepare(imaging, job, tmp_path / "state")
    CompletionRecords(tmp_path / "state" / "done").mark(planned.units[0].id, {})
    assert CompletionRecords(tmp_path / "state" / "done").names()
    assert state.prepare(imaging, job, tmp_path / "state").planned_at == planned.planned_at
    assert CompletionRecords(tmp_path / "state" / "done").names(), "the plan is there, so its markers count"
    (tmp_path / "state" / "plan.json").unlink()
    shutil.rmtree(tmp_path / "out")
    state.prepare(imaging, job, tmp_path / "state")
    assert not CompletionRecords(tmp_path / "state" / "done").names()


def test_a_job_begun_by_an_earlier_version_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((9, 40, 50)))
    job, plan = plan_job("imaging", tmp_path / "a.tif", tmp_path / "out", **SMALL)
    results = [imaging.run(job, unit) for unit in plan.units]
    old = [replace(result, detail={"image": "a", "levels": [0]}) for result in results]
    with pytest.raises(LadingError, match="was begun by an earlier version of Lading; remove the destination"):
        imaging.finish(job, [UnitRecord(unit.id, "w0", 0.0, result) for unit, result in zip(plan.units, old)])


@pytest.mark.parametrize("version", ["0.5", "0.4"])
@pytest.mark.parametrize("codec", ["blosc-zstd", "none", "zstd"])
def test_flipped_bit_in_an_output_chunk_is_caught(
    codec: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 40 places of the file, header and index included: each flip is caught or changes no voxel."""
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((16, 64, 64)))
    job, plan = plan_job("imaging", tmp_path / "a.tif", tmp_path / "out", levels=1, codec=codec, ngff=version, **SMALL)
    unit = plan.units[0]
    result = imaging.run(job, unit)
    chunk = tmp_path / "out" / result.outputs[0].path
    good = chunk.read_bytes()
    original = omezarr.write_box
    expected = tifffile.imread(tmp_path / "a.tif")
    caught = 0
    for place in np.linspace(0, len(good) - 1, 40).astype(int):

        def write_and_flip(to: Any, directory: str, window: Any, block: np.ndarray, place: int = place) -> None:
            original(to, directory, window, block)
            data = bytearray(good)
            data[place] ^= 16
            chunk.write_bytes(data)

        monkeypatch.setattr(omezarr, "write_box", write_and_flip)
        try:
            imaging.run(job, unit)
        except VerificationFailed:
            caught += 1
        else:
            image = zarr.open_array(tmp_path / "out/a.ome.zarr/0", mode="r")
            window = unit.task["window"]
            box = tuple(slice(*ends) for ends in window[2:])
            assert np.array_equal(image[(0, 0, *box)], expected[box]), f"byte {place}: undetected"
        monkeypatch.setattr(omezarr, "write_box", original)
    assert caught >= 30


def test_source_that_changes_between_plan_and_work(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, light_sheet((9, 40, 50)))
    job, plan = plan_job("imaging", path, tmp_path / "out", **SMALL)
    os.utime(path, ns=(1, 1))
    with pytest.raises(SourceFault, match="changed since the work was planned"):
        imaging.run(job, plan.units[0])
    path.unlink()
    with pytest.raises(SourceFault, match="cannot be read any more"):
        imaging.run(job, plan.units[0])


def test_full_disk_is_a_sentence_and_the_rest_continues(tmp_path: Path) -> None:
    """A file size limit stands for a full disk: the kernel refuses the write of a shard in its middle."""
    generator = np.random.default_rng(0)
    tifffile.imwrite(tmp_path / "a.tif", generator.integers(0, 65535, (32, 64, 64), dtype=np.uint16))
    command = [
        sys.executable,
        "-m",
        "jobs",
        "compress",
        str(tmp_path / "a.tif"),
        str(tmp_path / "out"),
        "--kind",
        "imaging",
    ]
    command += ["--chunk", "8,16,16", "--shard", "16,32,32", "--workers", "1"]
    limited = ["bash", "-c", 'trap "" XFSZ; ulimit -f 20; exec "$@"', "-", *command]
    # Python would leave compiled modules cut at the limit behind, which the next program cannot load.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(limited, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 3, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert f"{tmp_path}/out/a.ome.zarr/0: cannot write at t 0, c 0, z 0:16" in lines[0]
    assert "File too large" in lines[0]
    assert "Traceback" not in result.stderr
    require_unfinished(tmp_path / "out")
    assert not (tmp_path / "out/compress.json").exists()
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert np.array_equal(zarr.open_group(tmp_path / "out/a.ome.zarr")["0"][0, 0], tifffile.imread(tmp_path / "a.tif"))
    assert not [
        path
        for path in (tmp_path / "out").rglob("*")
        if path.name.startswith(".") and path.name not in (".zarray", ".zattrs", ".zgroup")
    ]


def test_unknown_compression_names_the_package_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = write_pages(tmp_path / "a.tif", light_sheet((3, 20, 20)))
    data = bytearray((tmp_path / "a.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        for page in tiff.pages:
            offset = page.tags["Compression"].valueoffset
            data[offset : offset + 2] = (5).to_bytes(2, "little")  # LZW
    (tmp_path / "a.tif").write_bytes(data)
    assert len(places) == 3
    message = sentence_of(tmp_path / "a.tif", tmp_path / "out")
    if "imagecodecs" not in sys.modules:
        assert "needs the imagecodecs package" in message


@pytest.mark.parametrize("rows_bytes", [700, 1 << 20])
def test_reader_returns_exactly_the_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_bytes: int) -> None:
    monkeypatch.setattr(tiff, "_ROWS_BYTES", rows_bytes)
    from lading.compress.imaging.tiff_plan import describe_stack
    from lading.compress.imaging.volume import Window

    voxels = light_sheet((6, 70, 90))
    for number, options in enumerate(
        [{}, {"compression": "zlib", "tile": (32, 48)}, {"compression": "zlib", "rowsperstrip": 9}]
    ):
        path = tmp_path / f"{number}.tif"
        write_pages(path, voxels, **options)
        reader = TiffReader(describe_stack(path.as_posix())[0], Source(path.parent))
        generator = np.random.default_rng(number)
        for _ in range(40):
            bounds = [tuple(sorted(generator.choice(length + 1, 2, replace=False).tolist())) for length in voxels.shape]
            found = reader.read(Window(0, 0, *bounds))
            assert np.array_equal(found, voxels[tuple(slice(*ends) for ends in bounds)])
            assert found.flags.c_contiguous
        reader.close()


def test_images_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a b.tif", "a?b.tif"):
        tifffile.imwrite(tmp_path / name, np.zeros((5, 8, 8), "u2"))
    with pytest.raises(LadingError, match=r"would be written as 'a_b' like another image"):
        plan_job("imaging", tmp_path, tmp_path.with_name(tmp_path.name + "o"), **SMALL)


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_every_file_and_its_names_are_flushed_before_a_unit_counts(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((33, 70, 66)))
    flushed: set[str] = set()
    flush = os.fsync

    def note(descriptor: int) -> None:
        flush(descriptor)
        flushed.add(os.readlink(f"/proc/self/fd/{descriptor}"))

    monkeypatch.setattr(os, "fsync", note)
    out = tmp_path / "out"
    job, plan = plan_job("imaging", tmp_path / "a.tif", out, levels=3, ngff=version, **SMALL)
    for path in out.rglob("*"):
        assert str(path.parent) in flushed, f"the name {path}"
    for unit in sorted(plan.units, key=lambda unit: len(unit.after)):
        flushed.clear()
        before = {path for path in out.rglob("*") if path.is_dir()}
        outputs = imaging.run(job, unit).outputs
        assert outputs
        for output in outputs:
            path = out / output.path
            assert str(path) in flushed
            assert str(path.parent) in flushed
        for path in set(out.rglob("*")) - before:
            assert not path.is_dir() or str(path.parent) in flushed, f"the name {path}"
