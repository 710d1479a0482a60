"""N5 containers as sources: BigDataViewer's layout and single datasets, as tensorstore writes them."""

import json
import struct
from pathlib import Path
from typing import Any

import numcodecs.lz4
import numpy as np
import pytest
import tensorstore

from lading.compress.job import SourceFault
from tests.images import light_sheet
from tests.integration.test_case_data import convert
from tests.integration.test_imaging import SMALL, attributes, levels, require_levels
from tests.kinds import compress

XML = """<SpimData version="0.2"><SequenceDescription><ImageLoader format="bdv.n5" version="1.0">
<n5 type="relative">{name}</n5></ImageLoader><ViewSetups><ViewSetup><id>1</id><voxelSize><unit>um</unit>
<size>0.5 0.5 2</size></voxelSize></ViewSetup></ViewSetups></SequenceDescription><ViewRegistrations>
<ViewRegistration timepoint="3" setup="1"><ViewTransform type="affine"><affine>1 0 0 10 0 1 0 20 0 0 4 40</affine>
</ViewTransform></ViewRegistration></ViewRegistrations></SpimData>"""


def write_dataset(path: Path, voxels: np.ndarray[Any, Any], compression: dict[str, Any], block: int = 16) -> None:
    store = tensorstore.open(
        {
            "driver": "n5",
            "kvstore": {"driver": "file", "path": str(path)},
            "metadata": {
                "dimensions": voxels.shape[::-1],
                "blockSize": [block] * voxels.ndim,
                "dataType": voxels.dtype.name,
                "compression": compression,
            },
            "create": True,
        }
    ).result()
    store[...] = voxels.T


def write_viewer(top: Path, voxels: np.ndarray[Any, Any], setups: tuple[int, ...], times: tuple[int, ...]) -> None:
    for setup in setups:
        for place, time in enumerate(times):
            image = voxels[place] + np.uint16(setup)
            folder = top / f"setup{setup}/timepoint{time}"
            write_dataset(folder / "s0", image, {"type": "gzip", "level": 1})
            write_dataset(folder / "s1", image[::2, ::2, ::2], {"type": "raw"})
            (folder / "attributes.json").write_text('{"multiScale": true}')
        (top / f"setup{setup}/attributes.json").write_text('{"dataType": "uint16"}')
    (top / "attributes.json").write_text('{"n5": "2.5.1"}')


def test_set_ups_and_times_that_do_not_start_at_zero(tmp_path: Path) -> None:
    voxels = light_sheet((2, 9, 20, 24))
    source = tmp_path / "source"
    write_viewer(source / "scan.n5", voxels, (1, 4), (3, 4))
    (source / "scan.xml").write_text(XML.format(name="scan.n5"))
    (source / "scan.n5/setup1/notes.txt").write_text("by hand")
    report = convert(source, tmp_path / "out")
    assert report["exit"] == 0
    for setup in (1, 4):
        require_levels(tmp_path / f"out/scan_setup{setup}.ome.zarr", (voxels + np.uint16(setup))[:, None], 1)
    scale, shift = attributes(tmp_path / "out/scan_setup1.ome.zarr")["multiscales"][0]["datasets"][0][
        "coordinateTransformations"
    ]
    assert (scale["scale"][-3:], shift["translation"][-3:]) == ([2.0, 0.5, 0.5], [20.0, 10.0, 5.0])
    assert [item["item"] for item in report["left_out"]] == ["scan.n5/setup1/notes.txt"], "levels are computed again"
    compress("imaging", source / "scan.n5", tmp_path / "again", levels=2, reuse_pyramid=True, **SMALL)
    finest, coarser = levels(tmp_path / "again/scan_setup4.ome.zarr")
    assert np.array_equal(finest, (voxels + np.uint16(4))[:, None])
    assert np.array_equal(coarser, finest[..., ::2, ::2, ::2]), "as it is stored, not a mean"


@pytest.mark.parametrize("kind", ["raw", "gzip", "zlib", "bzip2", "xz", "zstd", "blosc", "lz4"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
def test_each_compression(kind: str, dtype: str, tmp_path: Path) -> None:
    voxels = light_sheet((7, 18, 33), dtype=dtype)
    how: dict[str, Any] = {"type": kind}
    if kind == "zlib":
        how = {"type": "gzip", "level": 6, "useZlib": True}
    elif kind == "blosc":
        how = {"type": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}
    top = tmp_path / "a.n5"
    write_dataset(top / "volume", voxels, {"type": "raw"} if kind == "lz4" else how)
    (top / "attributes.json").write_text('{"n5": "2.0.0"}')
    if kind == "lz4":
        _repack(top / "volume")
    compress("imaging", top, tmp_path / "out", levels=1, **SMALL)
    require_levels(tmp_path / "out/a.ome.zarr", voxels[None, None], 1)


def _repack(dataset: Path) -> None:
    """Write the raw blocks of a dataset as lz4-java does: a compressed part, one as it is, an end mark."""
    for path in [one for one in dataset.rglob("*") if one.is_file() and one.name != "attributes.json"]:
        content = path.read_bytes()
        head, body = content[:16], content[16:]
        first, second = body[: len(body) // 2], body[len(body) // 2 :]
        packed = numcodecs.lz4.compress(first)[4:]
        stream = struct.pack("<8sBIII", b"LZ4Block", 0x26, len(packed), len(first), 0) + packed
        stream += struct.pack("<8sBIII", b"LZ4Block", 0x16, len(second), len(second), 0) + second
        path.write_bytes(head + stream + struct.pack("<8sBIII", b"LZ4Block", 0x16, 0, 0, 0))
    about = dataset / "attributes.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"compression": {"type": "lz4", "blockSize": 65536}}))


def test_a_block_that_is_not_there_is_zeros_and_a_damaged_one_a_sentence(tmp_path: Path) -> None:
    voxels = light_sheet((16, 32, 32))
    top = tmp_path / "a.n5"
    write_dataset(top, voxels, {"type": "gzip", "level": 1})
    (top / "1/0/0").unlink()
    compress("imaging", top, tmp_path / "out", levels=1, **SMALL)
    voxels[:, :16, 16:] = 0
    require_levels(tmp_path / "out/a.ome.zarr", voxels[None, None], 1)
    whole = (top / "0/0/0").read_bytes()
    large = struct.pack(">HHIII", 0, 3, 2**31, 16, 16) + whole[16:]
    for number, bad in enumerate((whole[:-9], b"", large, whole[:2] + b"\0\x07" + whole[4:], whole[:16] + b"not gzip")):
        (top / "0/0/0").write_bytes(bad)
        with pytest.raises(SourceFault, match=r"a\.n5.*block \./0/0/0|a\.n5.*block 0/0/0") as caught:
            compress("imaging", top, tmp_path / f"bad{number}", levels=1, **SMALL)
        assert "\n" not in str(caught.value)


def test_what_is_no_image_is_refused_by_name(tmp_path: Path) -> None:
    voxels = light_sheet((2, 9, 20, 24))
    write_viewer(tmp_path / "gap.n5", voxels, (0,), (0, 2))
    with pytest.raises(SourceFault, match=r"time points \[0, 2\] of setup0 have gaps"):
        compress("imaging", tmp_path / "gap.n5", tmp_path / "o1", **SMALL)
    write_dataset(tmp_path / "two.n5/a", voxels[0], {"type": "raw"})
    write_dataset(tmp_path / "two.n5/b", voxels[0], {"type": "raw"})
    (tmp_path / "two.n5/attributes.json").write_text('{"n5": "2.0.0"}')
    with pytest.raises(SourceFault, match=r"several datasets.*--dataset: a, b"):
        compress("imaging", tmp_path / "two.n5", tmp_path / "o2", **SMALL)
    compress("imaging", tmp_path / "two.n5", tmp_path / "o3", dataset="b", levels=1, **SMALL)
    require_levels(tmp_path / "o3/two.ome.zarr", voxels[:1, None], 1)
    about = tmp_path / "two.n5/a/attributes.json"
    about.write_text(about.read_text().replace('"raw"', '"jpeg"'))
    with pytest.raises(SourceFault, match="'jpeg' is not one of raw"):
        compress("imaging", tmp_path / "two.n5", tmp_path / "o4", dataset="a", **SMALL)
