"""A compression frees its source only when every byte of it is carried: as compared values, or byte for byte."""

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from lading.compress.ephys import ephys_plan as ephys
from lading.compress.ephys import residue
from lading.compress.ephys.recording import Segment, Stream, encode_stream
from lading.compress.imaging.tiff_cover import find_lost
from lading.compress.imaging.tiff_plan import describe_stack
from tests.deleting import Session
from tests.integration.test_deletion import in_process, trusting

__all__ = ["in_process", "trusting"]
Fetch = Callable[[], dict[str, bytes]]
NOTE = b"ANIMAL PROTOCOL 4711"


@pytest.fixture
def deliver(s3, bucket: str, tmp_path: Path, trusting) -> Callable[..., tuple[Session, Fetch]]:
    """Return a function that compresses and uploads a source, and one that gives the bucket's objects by name."""
    s3.make_bucket(bucket)

    def run(modality: str, source: Path, **cells: str) -> tuple[Session, Fetch]:
        place = Session(tmp_path, s3.endpoint, bucket, {modality: (source, cells)})
        place.deliver()

        def fetch() -> dict[str, bytes]:
            listed = place.client.list_objects_v2(Bucket=bucket)["Contents"]
            return {one["Key"]: place.client.get_object(Bucket=bucket, Key=one["Key"])["Body"].read() for one in listed}

        return place, fetch

    return run


FRAMES = 700
STAMPS = 1_700_000_000_000_000_001 + np.arange(FRAMES, dtype="<i8") * 33_333_333
SAMPLES = np.random.default_rng(0).integers(-99, 99, (FRAMES, 4))


def write_nwb(path: Path, *, stamps: Any = None, dtype: str = "<i2", user: int = 0, **storage: Any) -> bytes:
    """Write a recording; return the file's bytes."""
    path.parent.mkdir(exist_ok=True)
    with h5py.File(path, "w", userblock_size=user) as file:
        series = file.create_group("acquisition/Raw")
        series.attrs["neurodata_type"] = "ElectricalSeries"
        data = series.create_dataset("data", data=SAMPLES.astype(dtype), **storage)
        data.attrs["conversion"] = 1e-6
        series["timestamps"] = np.arange(FRAMES) / 1000 if stamps is None else stamps
        file["general/notes"] = "vlen text"
    return path.read_bytes()


def put_back(objects: dict[str, bytes], size: int) -> tuple[bytes, list[bool]]:
    """Return the bytes that the residue holds, and which of the file's bytes these are."""
    (found,) = (body for key, body in objects.items() if key.endswith("/ecephys_residue/s.nwb.residue"))
    line, _, rest = found.partition(b"\n")
    head = json.loads(line)
    assert (head["format"], head["kind"], head["size"]) == (1, "hdf5-residue", size)
    content, known, at = bytearray(size), [False] * size, 0
    for start, length in head["ranges"]:
        content[start : start + length] = rest[at : at + length]
        known[start : start + length] = [True] * length
        at += length
    assert at == len(rest)
    return bytes(content), known


@pytest.mark.parametrize(
    "stamps",
    [
        STAMPS,
        pytest.param(STAMPS.astype("<u8"), marks=pytest.mark.long),
        pytest.param(STAMPS.astype(">i8"), marks=pytest.mark.long),
        pytest.param(np.arange(FRAMES, dtype="f4"), marks=pytest.mark.long),
        np.arange(FRAMES, dtype=">f8"),
    ],
    ids=lambda stamps: stamps.dtype.str,
)
def test_times_go_only_in_a_type_that_holds_them(deliver, tmp_path: Path, stamps: Any) -> None:
    """64-bit integers were rounded to float64, called lossless, and their source deleted."""
    write_nwb(tmp_path / "source/s.nwb", stamps=stamps)
    place, fetch = deliver("ecephys", tmp_path / "source")
    assert place.remove() == (1, [])
    objects = fetch()
    (clipped,) = (body for key, body in objects.items() if key.endswith("ecephys_clipped/s.nwb"))
    (tmp_path / "clipped.nwb").write_bytes(clipped)
    with h5py.File(tmp_path / "clipped.nwb") as file:
        found = file["acquisition/Raw/timestamps"]
        assert found.dtype == stamps.dtype
        # Float64 is stored beside the samples, as it is; of all else the copy holds every value.
        expected = stamps[:100] if stamps.dtype == ">f8" else stamps
        assert found[:].tobytes() == expected.tobytes()


@pytest.mark.parametrize(
    "storage",
    [
        {},
        pytest.param({"chunks": (128, 3)}, marks=pytest.mark.long),
        pytest.param({"chunks": (100, 4), "compression": "gzip", "shuffle": True}, marks=pytest.mark.long),
        pytest.param({"dtype": ">i2", "chunks": (100, 4)}, marks=pytest.mark.long),
        pytest.param({"user": 512}, marks=pytest.mark.long),
        {"user": 512, "chunks": (100, 4)},
    ],
    ids=str,
)
def test_each_byte_of_an_hdf5_file_is_values_or_residue(deliver, tmp_path: Path, storage: dict[str, Any]) -> None:
    """What HDF5 points nowhere to is carried: a user block, free space, and bytes after its end."""
    path = tmp_path / "source/s.nwb"
    write_nwb(path, **storage)
    with h5py.File(path, "r+") as file:
        file["general/deleted"] = np.frombuffer(NOTE * 200, "u1")
        file.flush()
        del file["general/deleted"]
    content = bytearray(path.read_bytes())
    if "user" in storage:
        content[: len(NOTE)] = NOTE
    content += NOTE
    path.write_bytes(content)
    place, fetch = deliver("ecephys", tmp_path / "source")
    assert place.remove() == (1, [])
    found, known = put_back(fetch(), len(content))
    missing = bytes(byte for byte, here in zip(content, known) if not here)
    assert all(one == other for one, other, here in zip(content, found, known) if here)
    # Only the values of the samples and times are elsewhere, in the chunks that lie whole inside the arrays.
    times = (np.arange(FRAMES) / 1000).tobytes()
    if "user" in storage:
        assert missing == b""
    elif storage.get("compression"):
        assert 0 < len(missing) < FRAMES * 8 + len(times)
        assert times in missing
    else:
        rows, columns = {(128, 3): (640, 3), (100, 4): (700, 4)}.get(storage.get("chunks", ()), (700, 4))
        samples = SAMPLES.astype(storage.get("dtype", "<i2"))[:rows, :columns]
        assert sorted(missing) == sorted(samples.tobytes() + times)


def test_numbers_with_bits_that_no_reading_shows_are_in_the_residue(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        narrow = h5py.h5t.STD_I16LE.copy()
        narrow.set_precision(12)
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(file.id, b"narrow", narrow, space)
        file["whole"] = np.arange(4, dtype="<i2")
        file["enum"] = h5py.Empty("i2")
        file.create_dataset("text", data="vlen")
        assert [name for name in sorted(file) if residue.is_plain(file[name])] == ["whole"]


def test_what_an_earlier_version_planned_is_not_whole() -> None:
    job: Any = SimpleNamespace(facts={"streams": []}, options={"clip": True})
    assert "an earlier version" in ephys.lossy(job, None)  # type: ignore[arg-type]


def plain_stack(path: Path, **more: Any) -> None:
    tifffile.imwrite(path, np.arange(3 * 40 * 32, dtype="u2").reshape(3, 40, 32), photometric="minisblack", **more)


def with_tail(path: Path) -> None:
    plain_stack(path)
    path.write_bytes(path.read_bytes() + NOTE)


def with_gap(path: Path) -> None:
    """Bytes between two structures, before the last directory is moved behind them."""
    plain_stack(path)
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack("<I", content[4:8])
    (entries,) = struct.unpack("<H", content[first : first + 2])
    directory = content[first : first + 2 + 12 * entries + 4]
    content += NOTE + bytes(len(NOTE) % 2)
    content[4:8] = struct.pack("<I", len(content))
    path.write_bytes(content + directory)


def with_pages(*planes: tuple[tuple[int, int], str], **more: Any) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with tifffile.TiffWriter(path) as writer:
            for number, (shape, dtype) in enumerate(planes):
                data = np.full(shape, number + 7, dtype)
                writer.write(data, photometric="minisblack", metadata=None, **(more if number else {}))

    return write


def with_hidden_value(path: Path) -> None:
    """A directory entry whose value is shorter than its field, with something behind it."""
    plain_stack(path)
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack("<I", content[4:8])
    at = content.index(struct.pack("<HHI", 258, 3, 1), first)
    content[at + 10 : at + 12] = b"47"
    path.write_bytes(content)


def with_long_strip(compression: str | None) -> Callable[[Path], None]:
    """The one strip of a page is moved to the file's end, with something behind the voxels that counts to the strip."""

    def write(path: Path) -> None:
        tifffile.imwrite(path, np.zeros((40, 32), "u2"), photometric="minisblack", compression=compression)
        with tifffile.TiffFile(path, mode="r+b") as tiff:
            page: Any = tiff.pages[0]
            packed = tiff.filehandle.read_array("u1", page.databytecounts[0], offset=page.dataoffsets[0]).tobytes()
            page.tags["StripOffsets"].overwrite(path.stat().st_size)
            page.tags["StripByteCounts"].overwrite(len(packed) + len(NOTE))
        path.write_bytes(path.read_bytes() + packed + NOTE)

    return write


def with_voxels_beyond_the_edge(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((40, 32), "u2"), photometric="minisblack", tile=(32, 32))
    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages[0]
        at = page.dataoffsets[1] + 16 * 64
    content = bytearray(path.read_bytes())
    content[at : at + len(NOTE)] = NOTE
    path.write_bytes(content)


FULL, HALF, EIGHTH = (32, 32), (16, 16), (8, 8)


@pytest.mark.parametrize(
    ("write", "lost"),
    [
        (plain_stack, ""),
        (lambda path: plain_stack(path, bigtiff=True, byteorder=">"), ""),
        (lambda path: plain_stack(path, compression="zlib", predictor=True, tile=(32, 32)), ""),
        (lambda path: plain_stack(path, rowsperstrip=7), ""),
        (lambda path: plain_stack(path, truncate=True), ""),
        (with_pages((FULL, "u2"), (FULL, "u2")), ""),
        (with_tail, "to which nothing points"),
        (with_gap, "to which nothing points"),
        (with_pages((FULL, "u2"), (EIGHTH, "u2")), "page 1, which is not a plane"),
        (with_pages((FULL, "u2"), (HALF, "u2"), (EIGHTH, "u2")), "page 1, which is not a plane"),
        (with_pages((FULL, "u2"), (HALF, "u2"), subfiletype=1), "NewSubfileType"),
        (with_long_strip(None), "more than its voxels"),
        (with_hidden_value, "behind the value of tag 258"),
        (with_long_strip("zlib"), "after its compressed voxels"),
        (with_voxels_beyond_the_edge, "beyond its edge"),
    ],
)
def test_a_tiff_goes_only_when_each_byte_is_accounted_for(
    deliver, tmp_path: Path, write: Callable[[Path], None], lost: str
) -> None:
    (tmp_path / "source").mkdir()
    write(tmp_path / "source/stack.tif")
    place, _ = deliver("SPIM", tmp_path / "source", compress_raw_data="TRUE")
    removed, kept = place.remove()
    assert removed == (0 if lost else 1), kept
    assert lost in str(kept)


def test_no_flipped_byte_of_a_directory_passes_or_ends_the_check(tmp_path: Path) -> None:
    """Of all bytes that are not voxels only those may differ whose other values say nothing, either."""
    path = tmp_path / "stack.tif"
    voxels = np.arange(2 * 40 * 32, dtype="u2").reshape(2, 40, 32)
    for more in ({}, {"bigtiff": True}, {"compression": "zlib", "tile": (32, 32), "metadata": None}):
        tifffile.imwrite(path, voxels, photometric="minisblack", **more)
        (volume,), content = describe_stack(str(path)), path.read_bytes()
        with tifffile.TiffFile(path) as tiff:
            pages: list[Any] = list(tiff.pages)
            held = {
                at for page in pages for o, n in zip(page.dataoffsets, page.databytecounts) for at in range(o, o + n)
            }
        assert find_lost(io.BytesIO(content), volume) == ""
        passed = []
        for at in sorted(set(range(len(content))) - held):
            changed = bytearray(content)
            changed[at] ^= 0x55
            if not find_lost(io.BytesIO(bytes(changed)), volume):
                passed.append(at)
        assert passed == []


@pytest.mark.parametrize("more", ["tail", "thumb", "software", ""])
def test_a_series_of_planes_goes_only_when_each_is_one_page(deliver, tmp_path: Path, more: str) -> None:
    (tmp_path / "source").mkdir()
    for plane in range(2):
        path = tmp_path / f"source/plane_{plane}.tif"
        if more == "thumb":
            with_pages((FULL, "u2"), (EIGHTH, "u2"))(path)
        else:
            software = {"software": "SI.hRoiManager.scanZoomFactor = 1.7"} if more == "software" else {}
            tifffile.imwrite(path, np.full(FULL, plane, "u2"), photometric="minisblack", **software)
    if more == "tail":
        path.write_bytes(path.read_bytes() + NOTE)
    place, _ = deliver("SPIM", tmp_path / "source", compress_raw_data="TRUE")
    removed, kept = place.remove()
    assert removed == (0 if more else 2), kept


@pytest.mark.parametrize(("first", "count", "lost"), [(0, 4, ""), (0, 3, "channels"), (1, 3, "channels")])
def test_a_raw_file_is_whole_when_streams_hold_each_channel(first: int, count: int, lost: str) -> None:
    segment = Segment("a.bin", 100, 4, first_channel=first)
    names, zeros = tuple("abcd"[:count]), (0.0,) * count
    stream = Stream("s", "<i2", 1.0, names, names, zeros, zeros, ("uV",) * count, "neural", (segment,))
    facts = {"streams": [{"stream": encode_stream(stream), "settings": {}}], "coverage": 1}
    job: Any = SimpleNamespace(facts=facts, options={"clip": True})
    file: Any = SimpleNamespace(path="a.bin", state=SimpleNamespace(size=800))
    assert lost in ephys.lossy(job, file)
    file.state.size = 801
    assert (lost or "1 bytes after the last whole frame") in ephys.lossy(job, file)


def test_signed_zeros_and_the_bits_of_nans_are_kept(deliver, tmp_path: Path) -> None:
    """A chunk of -0.0 is not the fill value 0, and a NaN may carry a message."""
    bits = np.full((2, 32, 32), 0x80000000, "u4")
    bits[1] = 0x7FC04711
    bits[1, 0, 0] = 0x7F804711  # a signalling one
    (tmp_path / "source").mkdir()
    tifffile.imwrite(tmp_path / "source/stack.tif", bits.view("f4"), photometric="minisblack")
    place, fetch = deliver("SPIM", tmp_path / "source", compress_raw_data="TRUE", chunk='"1,32,32"')
    assert place.remove() == (1, [])
    top = tmp_path / "got"
    for key, body in fetch().items():
        (top / key).parent.mkdir(parents=True, exist_ok=True)
        (top / key).write_bytes(body)
    (image,) = top.rglob("*.ome.zarr")
    found: Any = zarr.open_array(image / "0", mode="r")
    assert np.array_equal(np.asarray(found[0, 0]).view("u4"), bits)
