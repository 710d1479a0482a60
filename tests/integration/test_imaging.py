"""Images to OME-Zarr: every source format, both versions, read back by others than the writer."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from lading.compress import buffers as memory
from lading.compress.imaging.pyramid import mean_halved
from lading.compress.imaging.volume import Window
from lading.compress.job import digest
from lading.core.errors import LadingError, UsageError
from tests.images import light_sheet, write_imaris
from tests.kinds import compress, plan_job, tree_bytes

SMALL: dict[str, Any] = {"chunk": "8,8,16", "shard": "16,32,32"}
VERSIONS = ["0.5", "0.4"]


def attributes(image: Path) -> dict[str, Any]:
    if (image / "zarr.json").exists():
        return json.loads((image / "zarr.json").read_text())["attributes"]["ome"]
    return json.loads((image / ".zattrs").read_text())


def levels(image: Path) -> list[np.ndarray]:
    group = zarr.open_group(image, mode="r")
    return [group[item["path"]][:] for item in attributes(image)["multiscales"][0]["datasets"]]


def means(voxels: np.ndarray, count: int) -> list[np.ndarray]:
    """Levels of t, c, z, y, x computed whole."""
    found = [voxels]
    while len(found) < count:
        found.append(np.stack([np.stack([mean_halved(c) for c in t]) for t in found[-1]]))
    return found


def require_levels(image: Path, voxels: np.ndarray, count: int) -> None:
    found = levels(image)
    assert len(found) == count
    for level, (mine, expected) in enumerate(zip(found, means(voxels, count))):
        assert mine.dtype == expected.dtype
        assert np.array_equal(mine, expected, equal_nan=expected.dtype.kind == "f"), f"level {level}"


@pytest.mark.parametrize("version", VERSIONS)
def test_stack_is_valid_and_equal_for_independent_readers(version: str, tmp_path: Path) -> None:
    voxels = light_sheet((37, 90, 121))
    tifffile.imwrite(
        tmp_path / "brain 1.tif",
        voxels,
        imagej=True,
        resolution=(1 / 0.65, 1 / 0.5),
        metadata={"axes": "ZYX", "spacing": 2.0, "unit": "um"},
    )
    told, markers = compress("imaging", tmp_path / "brain 1.tif", tmp_path / "out", ngff=version, levels=4, **SMALL)
    image = tmp_path / "out" / "brain_1.ome.zarr"
    require_levels(image, voxels[None, None], 4)

    from ome_zarr_models import open_ome_zarr

    model = open_ome_zarr(zarr.open_group(image, mode="r"))
    assert type(model).__module__ == f"ome_zarr_models.v{version.replace('.', '')}.image"

    tensorstore = pytest.importorskip("tensorstore")
    driver = "zarr3" if version == "0.5" else "zarr"
    for level, expected in enumerate(means(voxels[None, None], 4)):
        spec = {"driver": driver, "kvstore": {"driver": "file", "path": f"{image / str(level)}/"}}
        assert np.array_equal(tensorstore.open(spec).result().read().result(), expected)

    about = attributes(image)
    assert [axis["name"] for axis in about["multiscales"][0]["axes"]] == list("tczyx")
    assert {axis.get("unit") for axis in about["multiscales"][0]["axes"][2:]} == {"micrometer"}
    for level, item in enumerate(about["multiscales"][0]["datasets"]):
        scale, translation = item["coordinateTransformations"]
        size = np.array([2.0, 0.5, 0.65])
        assert scale["scale"] == pytest.approx([1, 1, *size * 2**level])
        assert translation["translation"] == pytest.approx([0, 0, *size * (2**level - 1) / 2])
    assert about["omero"]["channels"][0]["window"]["end"] > about["omero"]["channels"][0]["window"]["start"]
    assert "rounded half up" in about["multiscales"][0]["metadata"]["description"]
    assert told["images"][0]["voxel_um_zyx"] == pytest.approx((2.0, 0.5, 0.65))
    files = {
        path: len(data)
        for path, data in tree_bytes(tmp_path / "out").items()
        if "zarr.json" not in path and "/." not in path
    }
    # The picture is none of a unit's: it is made when all are done.
    assert files.pop(told["images"][0]["preview"])
    assert {o.path: o.size for m in markers for o in m.result.outputs} == files, "each file belongs to one unit"
    assert sum(len(m.result.outputs) for m in markers) == len(files)
    for output in markers[0].result.outputs:
        assert output.hash == digest((tmp_path / "out" / output.path).read_bytes())


def test_shards_and_chunks_are_as_asked(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((20, 40, 40)))
    compress("imaging", tmp_path / "a.tif", tmp_path / "o5", levels=1, **SMALL)
    array = zarr.open_array(tmp_path / "o5/a.ome.zarr/0", mode="r")
    assert (array.shards, array.chunks) == ((1, 1, 16, 32, 32), (1, 1, 8, 8, 16))
    compress("imaging", tmp_path / "a.tif", tmp_path / "o4", ngff="0.4", levels=1, **SMALL)
    meta = json.loads((tmp_path / "o4/a.ome.zarr/0/.zarray").read_text())
    assert (meta["chunks"], meta["dimension_separator"]) == ([1, 1, 8, 8, 16], "/")
    assert meta["compressor"] == {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 1, "blocksize": 0}


@pytest.mark.parametrize("version", VERSIONS)
def test_chunks_of_odd_sides(version: str, tmp_path: Path) -> None:
    """Their means need voxels of two chunks."""
    voxels = light_sheet((23, 40, 50))
    tifffile.imwrite(tmp_path / "a.tif", voxels)
    compress("imaging", tmp_path / "a.tif", tmp_path / "out", ngff=version, levels=3, chunk="5,7,9", shard="10,14,18")
    require_levels(tmp_path / "out/a.ome.zarr", voxels[None, None], 3)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("codec", ["blosc-zstd:3", "blosc-lz4", "zstd", "gzip:2", "none", "pcodec"])
def test_codecs(codec: str, version: str, tmp_path: Path) -> None:
    voxels = light_sheet((17, 33, 40))
    tifffile.imwrite(tmp_path / "a.tif", voxels)
    if (codec, version) == ("pcodec", "0.5"):
        with pytest.raises(UsageError, match="not part of Zarr format 3"):
            plan_job("imaging", tmp_path / "a.tif", tmp_path / "out", codec=codec, ngff=version)
        return
    _, markers = compress("imaging", tmp_path / "a.tif", tmp_path / "out", codec=codec, ngff=version, levels=2, **SMALL)
    require_levels(tmp_path / "out/a.ome.zarr", voxels[None, None], 2)
    assert markers[0].result.codec.startswith(codec.partition(":")[0])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "float32", "float64", ">u2"])
def test_dtypes(dtype: str, tmp_path: Path) -> None:
    voxels = light_sheet((9, 33, 40), dtype=dtype)
    if voxels.dtype.kind == "f":
        voxels[0, 0, 0], voxels[3, 3, 3] = np.nan, np.inf
    tifffile.imwrite(tmp_path / "a.tif", voxels, byteorder=">" if dtype == ">u2" else None)
    compress("imaging", tmp_path / "a.tif", tmp_path / "out", levels=2, **SMALL)
    require_levels(tmp_path / "out/a.ome.zarr", voxels.astype(voxels.dtype.newbyteorder("="))[None, None], 2)


@pytest.mark.parametrize("how", ["plain", "bigtiff", "zlib", "tiled", "strips", "tiled zlib predictor"])
def test_ways_to_store_pages(how: str, tmp_path: Path) -> None:
    voxels = light_sheet((6, 70, 90))
    options: dict[str, Any] = {
        "plain": {},
        "bigtiff": {"bigtiff": True},
        "zlib": {"compression": "zlib"},
        "tiled": {"tile": (32, 48)},
        "strips": {"rowsperstrip": 7, "compression": "zlib"},
        "tiled zlib predictor": {"tile": (16, 32), "compression": "zlib", "predictor": True},
    }[how]
    with tifffile.TiffWriter(tmp_path / "a.tif", bigtiff=options.pop("bigtiff", False)) as writer:
        for plane in voxels:
            writer.write(plane, contiguous=False, metadata=None, **options)
    compress("imaging", tmp_path / "a.tif", tmp_path / "out", levels=2, **SMALL)
    require_levels(tmp_path / "out/a.ome.zarr", voxels[None, None], 2)


def test_channels_times_and_their_names_from_ome(tmp_path: Path) -> None:
    voxels = np.stack([light_sheet((2, 5, 20, 24), seed) for seed in range(3)])  # t, c, z, y, x
    meta = {
        "axes": "TCZYX", "PhysicalSizeX": 0.2, "PhysicalSizeY": 250.0, "PhysicalSizeYUnit": "nm", "PhysicalSizeZ": 1.5,
        "TimeIncrement": 30.0, "Channel": {"Name": ["GFP", "RFP"]},
    }  # fmt: skip
    tifffile.imwrite(tmp_path / "a.ome.tif", voxels, metadata=meta)
    compress("imaging", tmp_path / "a.ome.tif", tmp_path / "out", levels=2, **SMALL)
    image = tmp_path / "out/a.ome.zarr"
    require_levels(image, voxels, 2)
    about = attributes(image)
    assert [channel["label"] for channel in about["omero"]["channels"]] == ["GFP", "RFP"]
    assert about["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]["scale"] == pytest.approx(
        [30, 1, 1.5, 0.25, 0.2]
    )
    assert about["multiscales"][0]["axes"][0]["unit"] == "second"


def test_imagej_order_and_interleaved_colour(tmp_path: Path) -> None:
    voxels = np.stack([light_sheet((5, 20, 24), seed) for seed in (1, 2)])  # c, z, y, x
    tifffile.imwrite(tmp_path / "ij.tif", voxels.transpose(1, 0, 2, 3)[None], imagej=True, metadata={"axes": "TZCYX"})
    compress("imaging", tmp_path / "ij.tif", tmp_path / "out", levels=1, **SMALL)
    require_levels(tmp_path / "out/ij.ome.zarr", voxels[None], 1)
    colour = np.stack([light_sheet((20, 24, 3)).transpose(2, 0, 1)[..., None].squeeze(-1)] * 1).astype("uint8")
    tifffile.imwrite(tmp_path / "rgb.tif", colour[0].transpose(1, 2, 0), photometric="rgb")
    compress("imaging", tmp_path / "rgb.tif", tmp_path / "out2", levels=1, **SMALL)
    require_levels(tmp_path / "out2/rgb.ome.zarr", colour[:, :, None], 1)


def write_planes(top: Path, names: dict[str, np.ndarray]) -> None:
    top.mkdir(parents=True, exist_ok=True)
    for name, plane in names.items():
        tifffile.imwrite(top / name, plane)


def test_series_sorts_by_number_and_takes_sidecars_along(tmp_path: Path) -> None:
    voxels = light_sheet((12, 40, 50))
    write_planes(tmp_path / "in", {f"img_{5 * z}.tif": plane for z, plane in enumerate(voxels)})  # 5 before 10
    (tmp_path / "in" / "settings.json").write_text("{}")
    (tmp_path / "in" / "logs").mkdir()
    (tmp_path / "in" / "logs" / "run.txt").write_text("ok")
    compress("imaging", tmp_path / "in", tmp_path / "out", levels=2, **SMALL)
    require_levels(tmp_path / "out/in.ome.zarr", voxels[None, None], 2)
    assert (tmp_path / "out/settings.json").read_text() == "{}"
    assert (tmp_path / "out/logs/run.txt").read_text() == "ok"


def test_series_with_channels_times_and_tiles(tmp_path: Path) -> None:
    voxels = {tile: np.stack([light_sheet((2, 4, 20, 24), seed) for seed in (tile, tile + 5)]) for tile in (1, 2)}
    for tile, data in voxels.items():
        names = {
            f"tile{tile}_T{t}_ch_{(488, 561)[c]}_z{z:03d}.tif": data[t, c, z]
            for t in range(2) for c in range(2) for z in range(4)
        }  # fmt: skip
        write_planes(tmp_path / "in", names)
    compress("imaging", tmp_path / "in", tmp_path / "out", levels=1, voxel_size="2,1,1", **SMALL)
    images = sorted(path.name for path in (tmp_path / "out").glob("*.zarr"))
    assert images == ["tile1.ome.zarr", "tile2.ome.zarr"]
    for tile, data in voxels.items():
        require_levels(tmp_path / f"out/tile{tile}.ome.zarr", data, 1)
        labels = [c["label"] for c in attributes(tmp_path / f"out/tile{tile}.ome.zarr")["omero"]["channels"]]
        assert labels == ["488", "561"]


def test_tiles_and_folders_are_images_of_their_own(tmp_path: Path) -> None:
    for tile in ("tile_x_0000_y_0000_z_0000_ch_488", "tile_x_0001_y_0000_z_0000_ch_488"):
        tifffile.imwrite(tmp_path / f"{tile}.tiff", light_sheet((5, 20, 24), len(tile)), bigtiff=True)
    write_planes(tmp_path / "Ex_488" / "000", {f"{z:06d}.tiff": np.full((20, 24), z, "u2") for z in range(3)})
    compress("imaging", tmp_path, tmp_path.with_name(tmp_path.name + "-out"), levels=1, **SMALL)
    names = sorted(path.name for path in tmp_path.with_name(tmp_path.name + "-out").glob("*.zarr"))
    assert names == [
        "Ex_488_000.ome.zarr", "tile_x_0000_y_0000_z_0000_ch_488.ome.zarr", "tile_x_0001_y_0000_z_0000_ch_488.ome.zarr",
    ]  # fmt: skip


@pytest.mark.parametrize("reuse", [False, True])
def test_imaris_is_cropped_and_its_pyramid_reusable(reuse: bool, tmp_path: Path) -> None:
    voxels = np.stack([light_sheet((2, 21, 45, 50), seed) for seed in (1, 2)])
    stored = write_imaris(tmp_path / "tile.ims", voxels, (2.0, 0.5, 0.4), levels=3)
    told, _ = compress("imaging", tmp_path / "tile.ims", tmp_path / "out", reuse_pyramid=reuse, levels=3, **SMALL)
    image = tmp_path / "out/tile.ome.zarr"
    for found, expected in zip(levels(image), stored if reuse else means(voxels, 3), strict=True):
        assert np.array_equal(found, expected)
    about = attributes(image)
    assert told["images"][0]["voxel_um_zyx"] == pytest.approx((2.0, 0.5, 0.4))
    assert [channel["label"] for channel in about["omero"]["channels"]] == ["GFP 0", "GFP 1"]
    assert about["omero"]["channels"][0]["color"] == "00FF80"
    assert about["multiscales"][0]["type"] == ("stored" if reuse else "mean")
    assert len(about["multiscales"][0]["datasets"]) == 3


def test_hdf5_plain_and_big_data_viewer(tmp_path: Path) -> None:
    voxels = light_sheet((2, 9, 20, 24))
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file.create_dataset("small", data=np.zeros((2, 2)))
        data = file.create_dataset("a/vol{0}", data=voxels, chunks=True, compression="gzip")
        data.attrs["element_size_um"] = [3.0, 1.0, 1.0]
    told, _ = compress("imaging", tmp_path / "plain.h5", tmp_path / "o1", levels=2, **SMALL)
    require_levels(tmp_path / "o1/plain.ome.zarr", voxels[None], 2)
    assert told["images"][0]["voxel_um_zyx"] == (3.0, 1.0, 1.0)
    with h5py.File(tmp_path / "bdv.h5", "w") as file:
        for t in range(2):
            for s in range(2):
                file[f"t{t:05d}/s{s:02d}/0/cells"] = (voxels[t] + s).astype("u2").view("i2")
    compress("imaging", tmp_path / "bdv.h5", tmp_path / "o2", levels=1, **SMALL)
    for s in range(2):
        require_levels(tmp_path / f"o2/bdv_s{s:02d}.ome.zarr", (voxels + np.uint16(s))[:, None], 1)


@pytest.mark.parametrize("version", VERSIONS)
def test_ome_zarr_as_source(version: str, tmp_path: Path) -> None:
    voxels = light_sheet((9, 40, 50))
    tifffile.imwrite(tmp_path / "a.tif", voxels)
    compress("imaging", tmp_path / "a.tif", tmp_path / "mid", ngff=version, levels=2, voxel_size="2,1,1", **SMALL)
    other = "0.4" if version == "0.5" else "0.5"
    for reuse in (False, True):
        out = tmp_path / f"out{reuse}"
        told, _ = compress(
            "imaging", tmp_path / "mid/a.ome.zarr", out, ngff=other, reuse_pyramid=reuse, levels=2, **SMALL
        )
        require_levels(out / "a.ome.zarr", voxels[None, None], 2)
        assert told["images"][0]["voxel_um_zyx"] == (2.0, 1.0, 1.0)


def test_empty_space_has_no_files_and_still_counts(tmp_path: Path) -> None:
    voxels = np.zeros((32, 128, 128), np.uint16)
    voxels[20:, 100:, 100:] = 7
    tifffile.imwrite(tmp_path / "a.tif", voxels)
    _, markers = compress("imaging", tmp_path / "a.tif", tmp_path / "out", levels=2, **SMALL)
    require_levels(tmp_path / "out/a.ome.zarr", voxels[None, None], 2)
    assert any(not marker.result.outputs for marker in markers)
    assert sum(marker.result.bytes_in for marker in markers) == voxels.nbytes


def test_any_order_gives_the_same_bytes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((37, 90, 121)))
    compress("imaging", tmp_path / "a.tif", tmp_path / "one", levels=3, **SMALL)
    job, plan = plan_job("imaging", tmp_path / "a.tif", tmp_path / "two", levels=3, **SMALL)
    from lading.compress.imaging import imaging_plan as imaging

    for unit in sorted(plan.units, key=lambda u: (len(u.after), u.id[::-1])):
        imaging.run(job, unit)
        imaging.run(job, unit)  # twice: a claim that was lost after the work
    imaging.finish(job, [])
    assert tree_bytes(tmp_path / "one") == tree_bytes(tmp_path / "two")


def test_plan_is_repeatable_and_keeps_what_was_written(tmp_path: Path) -> None:
    voxels = light_sheet((9, 40, 50))
    tifffile.imwrite(tmp_path / "a.tif", voxels)
    compress("imaging", tmp_path / "a.tif", tmp_path / "out", levels=2, **SMALL)
    before = tree_bytes(tmp_path / "out")
    plan_job("imaging", tmp_path / "a.tif", tmp_path / "out", levels=2, **SMALL)
    assert tree_bytes(tmp_path / "out") == before
    with pytest.raises(LadingError, match="made with other settings"):
        plan_job("imaging", tmp_path / "a.tif", tmp_path / "out", levels=2, chunk="4,16,16", shard="16,32,32")


def test_no_reader_takes_an_unfinished_image_for_a_finished_one(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((9, 40, 50)))
    for version in VERSIONS:
        job, plan = plan_job("imaging", tmp_path / "a.tif", tmp_path / version, levels=2, ngff=version, **SMALL)
        from lading.compress.imaging import imaging_plan as imaging

        for unit in plan.units:
            imaging.run(job, unit)
        with pytest.raises(FileNotFoundError):
            zarr.open_group(tmp_path / version / "a.ome.zarr", mode="r")
        imaging.finish(job, [])
        zarr.open_group(tmp_path / version / "a.ome.zarr", mode="r")


def test_memory_is_stated(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((9, 40, 50)))
    _, plan = plan_job("imaging", tmp_path / "a.tif", tmp_path / "out")
    assert plan.facts["worker_memory"] == 10 * 128 * 512 * 512 * 2 + 200_000_000
    assert "of memory per worker" in plan.facts["notice"][0]
    assert "the size of a voxel is unknown" in plan.facts["notice"][1]


def test_superblocks_span_rows_unless_ranks_would_wait(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 128, 200), "u2"))

    def spans(ranks: int) -> list[tuple[int, int]]:
        _, plan = plan_job("imaging", tmp_path / "a.tif", tmp_path / f"out{ranks}", ranks, **SMALL)
        return sorted({tuple(unit.task["window"][4]) for unit in plan.units if unit.task.get("level") == 0})

    wide, narrow = [(0, 128), (128, 200)], [(0, 64), (64, 128), (128, 192), (192, 200)]
    # 2 × 2 × 2 wide superblocks, 2 × 2 × 4 narrow ones.
    assert [spans(ranks) for ranks in (1, 4, 8, 16)] == [wide, wide, wide, narrow]


def test_superblocks_span_rows_of_a_camera_that_is_a_little_wider(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 128, 144), "u2"))
    _, plan = plan_job("imaging", tmp_path / "a.tif", tmp_path / "out", **SMALL)
    finest = [unit.task["window"] for unit in plan.units if unit.task.get("level") == 0]
    assert {tuple(window[4]) for window in finest} == {(0, 128), (128, 144)}


def test_layers_end_at_chunks_and_cover_the_window() -> None:
    window = Window(0, 0, (5, 300), (0, 1000), (0, 2000))
    layers = list(window.layers(16, 2))
    assert [layer.z for layer in layers[:2]] == [(5, 16), (16, 32)]
    assert all(layer.z[1] % 16 == 0 for layer in layers[:-1])
    assert [z for layer in layers for z in range(*layer.z)] == list(range(5, 300))
    assert [layer.z for layer in Window(0, 0, (0, 40), (0, 8), (0, 8)).layers(7, 2)] == [(0, 40)]


def test_a_role_has_one_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    empty = np.empty
    monkeypatch.setattr(memory.np, "empty", lambda size, dtype: sizes.append(size) or empty(size, dtype))
    for length in (1000, 10, 900, 2000, 1500):
        assert memory.scratch_buffer("test of roles", np.dtype("u2"), (length,)).shape == (length,)
    assert sizes == [2000, 4000]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.long
def test_output_does_not_depend_on_how_many_ranks_it_was_planned_for(version: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", light_sheet((37, 90, 201)))
    found = []
    for ranks in (1, 100):
        out = tmp_path / str(ranks)
        told, markers = compress("imaging", tmp_path / "a.tif", out, ranks, ngff=version, levels=4, **SMALL)
        found.append((told, tree_bytes(out), sum(marker.result.bytes_in for marker in markers)))
        assert len({marker.unit for marker in markers if "/0/" in marker.unit}) == (8 if ranks == 1 else 16)
    assert found[0] == found[1]


@pytest.mark.parametrize("ranks", [1, 100])
def test_units_wait_for_those_that_write_what_they_read(ranks: int, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((70, 200, 290), "u2"))
    _, plan = plan_job("imaging", tmp_path / "a.tif", tmp_path / "out", ranks, levels=5, **SMALL)
    ids = {unit.id: unit for unit in plan.units}
    assert len(ids) == len(plan.units)
    for unit in plan.units:
        if "residue" in unit.task:
            assert not unit.after
            continue
        level = unit.task["level"]
        assert bool(unit.after) == (level >= 2)
        for name in unit.after:
            before = ids[name]
            assert before.task["level"] == (level - 1 if level > 2 else 0)
            shrink = 2 if level > 2 else 4
            for (start, end), (low, high) in zip(before.task["window"][2:], unit.task["window"][2:]):
                assert start < high * shrink
                assert end > low * shrink
    waited = {name for unit in plan.units for name in unit.after}
    assert {u.id for u in plan.units if u.task.get("level") == 0} <= waited


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": "64,128"}, "chunk '64,128' is not three whole numbers"),
        ({"chunk": "7,128,128"}, "must be even and hold whole chunks"),
        ({"shard": "5,5,5", "chunk": "5,5,5"}, "must be even"),
        ({"codec": "zip"}, "'zip' is not a codec for images"),
        ({"codec": "zstd:99"}, "level '99' of codec zstd"),
        ({"levels": 0}, "--levels 0"),
        ({"voxel_size": "1,2"}, "voxel size '1,2'"),
        ({"voxel_size": "1,-2,nan"}, "voxel size"),
        ({"reuse_pyramid": True}, "stores no pyramid to reuse"),
    ],
)
def test_wrong_options_are_sentences(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 8, 8), "u2"))
    with pytest.raises(UsageError) as caught:
        plan_job("imaging", tmp_path / "a.tif", tmp_path / "out", **options)
    assert message in str(caught.value)
    assert not list((tmp_path / "out").rglob("*")) if (tmp_path / "out").exists() else True
