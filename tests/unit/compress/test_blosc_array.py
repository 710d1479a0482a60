"""Files of Blosc arrays: byte for byte what zarr writes, and nothing that is damaged passes."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from lading.compress.destination import DirectoryDestination
from lading.compress.imaging import ome_zarr as omezarr
from lading.compress.imaging.blosc_array import BloscArray, read_document
from lading.compress.imaging.ome_zarr import OmeZarrLayout, array_documents
from lading.compress.imaging.volume import Window
from lading.compress.job import new_working_name
from tests.kinds import tree_bytes

CHUNK, SHARD = (8, 8, 16), (16, 32, 32)
VERSIONS = ("0.5", "0.4")


def some_voxels(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Sparse counts, in which whole chunks and shards hold nothing."""
    generator = np.random.default_rng(7)
    voxels = (generator.poisson(3, shape) * (generator.random(shape) < 0.1)).astype(dtype)
    voxels[..., :20, :20] = 0
    if voxels.dtype.kind == "f":
        voxels[..., 0, 0, 0] = -0.0
        voxels[..., -1, -1, -1] = np.nan
    return voxels


def write(top: Path, layout: OmeZarrLayout, voxels: np.ndarray) -> dict[str, bytes]:
    """Write an array shard by shard, read it back each time; returns its files."""
    shape: Any = voxels.shape
    with DirectoryDestination(top, new_working_name()) as place:
        omezarr.place_documents(place, "a", array_documents(layout, shape, voxels.dtype.name))
        for t, c in itertools.product(range(shape[0]), range(shape[1])):
            for starts in itertools.product(*map(range, (0, 0, 0), shape[2:], layout.shard)):
                z, y, x = (
                    (start, min(start + size, length)) for start, size, length in zip(starts, layout.shard, shape[2:])
                )
                window = Window(t, c, z, y, x)
                omezarr.write_box(place, "a", window, voxels[window.slices])
                out = np.full(window.shape, 77, voxels.dtype)
                omezarr.read_box(place, "a", window, out)
                assert out.tobytes() == voxels[window.slices].tobytes()
        place.tidy()
    return tree_bytes(top)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "chunk", "shard", "codec"),
    [
        ((1, 1, 37, 90, 121), CHUNK, SHARD, "blosc-zstd"),
        ((2, 2, 9, 5, 70), CHUNK, SHARD, "blosc-lz4"),
        ((1, 1, 5, 3, 2), CHUNK, SHARD, "blosc-zstd"),
        ((1, 1, 30, 50, 60), (8, 8, 8), (24, 40, 56), "blosc-zstd"),  # 3 × 5 × 7 chunks a shard
    ],
)
def test_files_are_those_of_zarr(
    version: str,
    dtype: str,
    shape: tuple[int, ...],
    chunk: Any,
    shard: Any,
    codec: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = OmeZarrLayout(version, chunk, shard, codec, 3)
    voxels = some_voxels(shape, dtype)
    taken: list[BloscArray | None] = []
    known = omezarr.read_document

    def note(name: str, content: bytes) -> BloscArray | None:
        taken.append(known(name, content))
        return taken[-1]

    monkeypatch.setattr(omezarr, "read_document", note)
    mine = write(tmp_path / "mine", layout, voxels)
    assert taken
    assert None not in taken
    monkeypatch.setattr(omezarr, "read_document", lambda name, content: None)
    theirs = write(tmp_path / "theirs", layout, voxels)
    assert mine == theirs
    found = zarr.open_array(tmp_path / "mine" / "a", mode="r")[:]
    assert np.asarray(found).tobytes() == voxels.tobytes()


def documents(version: str, **changes: Any) -> dict[str, Any]:
    (content,) = array_documents(
        OmeZarrLayout(version, CHUNK, SHARD, "blosc-zstd", 1), (1, 1, 30, 40, 50), "uint16"
    ).values()
    return {**json.loads(content), **changes}


def accepts(version: str, document: Any) -> bool:
    name = "zarr.json" if version == "0.5" else ".zarray"
    return read_document(name, json.dumps(document).encode()) is not None


def test_what_says_anything_else_is_left_to_zarr() -> None:
    assert accepts("0.4", documents("0.4"))
    for changes in (
        {"order": "F"},
        {"fill_value": 1},
        {"filters": [{"id": "delta", "dtype": "<u2"}]},
        {"dimension_separator": "."},
        {"dtype": ">u2"},
        {"compressor": None},
        {"compressor": {"id": "zstd", "level": 1}},
        {"chunks": [1, 2, 8, 8, 16]},
        {"chunks": [8, 8, 16]},
        {"zarr_format": 3},
    ):
        assert not accepts("0.4", documents("0.4", **changes)), changes
    assert accepts("0.5", documents("0.5"))
    (sharding,) = documents("0.5")["codecs"]
    inner = sharding["configuration"]
    packed, compressed = inner["codecs"]
    for changed in (
        {"codecs": [packed]},
        {"codecs": [{"name": "transpose", "configuration": {"order": [0, 1, 2, 4, 3]}}, packed, compressed]},
        {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}, compressed]},
        {"codecs": [packed, {"name": "zstd", "configuration": {"level": 1, "checksum": False}}]},
        {"index_location": "start"},
        {"index_codecs": inner["index_codecs"][:1]},
        {"chunk_shape": [1, 1, 5, 8, 16]},
    ):
        document = documents("0.5", codecs=[{**sharding, "configuration": {**inner, **changed}}])
        assert not accepts("0.5", document), changed
    for changes in (
        {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "/"}}},
        {"fill_value": 3},
        {"data_type": "r16"},
        {"codecs": [packed, compressed]},
        {"storage_transformers": [{"name": "x"}]},
    ):
        assert not accepts("0.5", documents("0.5", **changes)), changes
    for content in (b"", b"[]", b"null", b'{"codecs": 3}', b"\xff"):
        assert read_document("zarr.json", content) is None
        assert read_document(".zarray", content) is None


def test_a_window_that_cuts_a_file_is_left_to_zarr() -> None:
    array = read_document("zarr.json", json.dumps(documents("0.5")).encode())
    assert array is not None
    assert array.has_whole_files(Window(0, 0, (16, 30), (0, 32), (32, 50)))
    assert not array.has_whole_files(Window(0, 0, (16, 29), (0, 32), (32, 50)))
    assert not array.has_whole_files(Window(0, 0, (8, 30), (0, 32), (32, 50)))


def test_a_damaged_shard_is_refused() -> None:
    """A cut anywhere, a flipped bit of the index or of a chunk's size."""
    array = read_document("zarr.json", json.dumps(documents("0.5")).encode())
    assert array is not None
    generator = np.random.default_rng(3)
    voxels = generator.integers(0, 500, SHARD).astype("u2")
    voxels[8:, 16:] = 0  # some chunks are absent
    good = b"".join(array.encode(voxels))
    out = np.empty(SHARD, "u2")
    array.decode(good, out)
    assert np.array_equal(out, voxels)
    index = 16 * 2 * 4 * 2 + 4
    for number in range(200):
        bad = bytearray(good)
        if number % 2:
            bad[generator.integers(len(good) - index, len(good))] ^= 1 << number % 8
        else:
            del bad[generator.integers(0, len(bad)) :]
        with pytest.raises(ValueError, match="index"):
            array.decode(bytes(bad), out)
    first = int(np.frombuffer(good[-index:-4], "<u8")[0])
    bad = bytearray(good)
    bad[first + 4] ^= 1
    with pytest.raises(ValueError, match="does not hold the 1024 voxels of a chunk"):
        array.decode(bytes(bad), out)
    with pytest.raises(ValueError, match="it has 3 bytes, fewer than its index"):
        array.decode(b"abc", out)
