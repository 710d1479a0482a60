"""Nothing of an image source is left out in silence, and sizes, places and times are the source's own.

Each test is one way in which real files differ from what a reader expects.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorstore
import tifffile
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lading.cli import compress as command
from lading.compress import launcher
from lading.compress.imaging import tiff_residue
from lading.compress.job import SourceFault
from tests.images import light_sheet, write_imaris

SMALL = ["--chunk", "8,8,16", "--shard", "16,32,32", "--levels", "1", "--workers", "1"]
CYX = np.arange(3 * 20 * 30, dtype="u2").reshape(3, 20, 30)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are functions of this process: a child of its own loads the libraries once more for each test."""
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))


def convert(source: Path, out: Path, *flags: str, kind: str = "imaging") -> dict[str, Any]:
    """Compress a source by the command; return its report, with the exit code as ``exit``."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out.with_name(f"{out.name}.state"), ignore_errors=True)
    code = command.main([str(source), str(out), "--kind", kind, *(SMALL if kind == "imaging" else []), *flags])
    report = json.loads((out / "compress.json").read_text())
    return {**report, "exit": code, "images_": report["facts"].get("images", [])}


def voxels(image: Path, level: int = 0) -> np.ndarray[Any, Any]:
    """Level 0 of an image, read by tensorstore."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(image / str(level))}}
    return np.asarray(tensorstore.open(spec, read=True).result().read().result())


def placed(image: Path) -> tuple[list[float], list[float], dict[str, str | None]]:
    """Return scale, translation and units of level 0."""
    (multiscale,) = json.loads((image / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    scale, translation = multiscale["datasets"][0]["coordinateTransformations"]
    units = {axis["name"]: axis.get("unit") for axis in multiscale["axes"]}
    return scale["scale"], translation["translation"], units


def named(report: dict[str, Any], key: str = "left_out") -> set[str]:
    return {item["item"] for item in report[key]}


def write_views(path: Path, views: dict[tuple[int, int], np.ndarray[Any, Any]]) -> None:
    """Write BigDataViewer's HDF5: uint16 as int16, one level, ids as they come."""
    with h5py.File(path, "w") as file:
        for (time, setup), data in views.items():
            file[f"t{time:05d}/s{setup:02d}/0/cells"] = data.view("i2")
            if f"s{setup:02d}" not in file:
                file[f"s{setup:02d}/resolutions"] = np.ones((1, 3))
                file[f"s{setup:02d}/subdivisions"] = np.full((1, 3), 8)


def test_big_data_viewer_with_any_ids(tmp_path: Path) -> None:
    """Partitions begin at any time and any set-up; values above 32767 are no negative numbers."""
    views = {(t, s): np.full((4, 8, 9), 40000 + 10 * t + s, "u2") for t in (18, 19) for s in (1, 3)}
    (tmp_path / "in").mkdir()
    write_views(tmp_path / "in" / "dataset-01-00.h5", views)
    report = convert(tmp_path / "in", tmp_path / "out")
    assert (report["exit"], named(report)) == (0, set())
    for setup in (1, 3):
        found = voxels(tmp_path / "out" / f"dataset-01-00_s{setup:02d}.ome.zarr")
        assert found.dtype == "u2"
        assert np.array_equal(found[:, 0], np.stack([views[t, setup] for t in (18, 19)]))


def test_big_data_viewer_times_differ_by_set_up_or_skip(tmp_path: Path) -> None:
    views = {key: np.full((4, 8, 9), 7, "u2") for key in ((0, 0), (1, 0), (1, 5))}
    write_views(tmp_path / "a.h5", views)
    report = convert(tmp_path / "a.h5", tmp_path / "out")
    assert {image["name"]: image["shape_tczyx"][0] for image in report["images_"]} == {"a_s00": 2, "a_s05": 1}
    assert named(report) == {"a.h5: s05 at t00000"}
    write_views(tmp_path / "b.h5", {key: np.full((4, 8, 9), 7, "u2") for key in ((3, 0), (5, 0))})
    with pytest.raises(SourceFault, match=r"time points \[3, 5\] of s00 have gaps; .* --allow-gaps"):
        convert(tmp_path / "b.h5", tmp_path / "out")
    assert convert(tmp_path / "b.h5", tmp_path / "out", "--allow-gaps")["exit"] == 0
    with h5py.File(tmp_path / "b.h5", "r+") as file:
        file["t00004/s00/0/cells"] = np.zeros((4, 8, 8), "i2")
    with pytest.raises(SourceFault, match="4 × 8 × 8 at t00004 and 4 × 8 × 9 at t00003"):
        convert(tmp_path / "b.h5", tmp_path / "out")


XML = """<SpimData version="0.2"><SequenceDescription><ImageLoader format="bdv.hdf5"><hdf5 type="relative">a.h5</hdf5>
</ImageLoader><ViewSetups><ViewSetup><id>2</id><voxelSize><unit>mm</unit><size>0.0005 0.0006 0.002</size></voxelSize>
</ViewSetup></ViewSetups></SequenceDescription><ViewRegistrations>
<ViewRegistration timepoint="7" setup="2">
<ViewTransform type="affine"><affine>1 0 0 40 0 1 0 50 0 0 1 -8</affine></ViewTransform>
<ViewTransform type="affine"><affine>1 {shear} 0 0 0 1.2 0 0 0 0 4 0</affine></ViewTransform>
</ViewRegistration></ViewRegistrations></SpimData>"""


@pytest.mark.parametrize("shear", ["0", "0.1"])
def test_big_data_viewer_sizes_and_places_of_the_xml(shear: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    write_views(tmp_path / "in" / "a.h5", {(7, 2): np.zeros((4, 8, 9), "u2")})
    (tmp_path / "in" / "a.xml").write_text(XML.format(shear=shear))
    report = convert(tmp_path / "in", tmp_path / "out")
    scale, translation, units = placed(tmp_path / "out" / "a_s02.ome.zarr")
    assert np.allclose(scale[2:], (2.0, 0.6, 0.5))
    assert units["z"] == "micrometer"
    # One step along x is the unit of the world: 40 of them are 40 × 0.5 µm; y has steps of 1.2, z of 4.
    expected = (-8 / 4 * 2.0, 50 / 1.2 * 0.6, 40 * 0.5) if shear == "0" else (0, 0, 0)
    assert np.allclose(translation[2:], expected)
    assert ("a.xml: place of a_s02" in named(report)) == (shear != "0")
    assert (tmp_path / "out" / "a.xml").exists()


def test_hdf5_of_several_datasets(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for number in range(3):
            file[f"raw/ch{number}"] = light_sheet((6, 20, 30), seed=number)
        file["mask"] = np.ones((6, 10, 15), "u1")
        file["log"] = "focus at 3"
        file["alias"] = h5py.SoftLink("/raw/ch0")
    report = convert(tmp_path / "a.h5", tmp_path / "out")
    for number in range(3):
        found = voxels(tmp_path / "out" / f"a_raw_ch{number}.ome.zarr")
        assert np.array_equal(found[0, 0], light_sheet((6, 20, 30), seed=number))
    assert named(report) == {"a.h5: mask", "a.h5: log", "a.h5: alias"}
    report = convert(tmp_path / "a.h5", tmp_path / "out", "--dataset", "mask")
    assert voxels(tmp_path / "out" / "a.ome.zarr").shape == (1, 1, 6, 10, 15)
    assert named(report) == {f"a.h5: {name}" for name in ("raw/ch0", "raw/ch1", "raw/ch2", "log", "alias")}


def test_ome_tiff_with_more_or_fewer_pages_than_its_xml(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    xml = tifffile.OmeXml()
    xml.addimage(dtype="u2", shape=(2, 20, 30), storedshape=(2, 1, 1, 20, 30, 1), axes="ZYX", PhysicalSizeX=0.5)
    with tifffile.TiffWriter(path, ome=False) as writer:
        for number, plane in enumerate(CYX):
            text = xml.tostring() if not number else None
            writer.write(plane, description=text, metadata=None, contiguous=False)
    with pytest.raises(SourceFault, match=r"declare 2 planes and the file holds 3 \(page 2 more\).*--by-pages"):
        convert(path, tmp_path / "out")
    assert convert(path, tmp_path / "out", "--by-pages")["exit"] == 0
    assert np.array_equal(voxels(tmp_path / "out" / "a.ome.zarr")[0, 0], CYX)


def test_pages_that_tifffile_takes_for_previews_are_named(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(CYX, metadata=None, photometric="minisblack")
        writer.write(CYX[0, ::4, ::4], metadata=None, photometric="minisblack", subfiletype=1)
    report = convert(tmp_path / "a.tif", tmp_path / "out")
    assert np.array_equal(voxels(tmp_path / "out" / "a.ome.zarr")[0, 0], CYX)
    assert named(report) == {"a.tif: page 3"}


def test_files_of_an_ome_tiff_set_go_by_its_xml_or_their_names(tmp_path: Path) -> None:
    """Micro-Manager and Bruker write a file a plane, each with the XML of the whole."""
    top = tmp_path / "in"
    top.mkdir()
    names = [f"p_{number:03d}.ome.tif" for number in range(3)]
    data = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{z}</UUID></TiffData>'
        for z, name in enumerate(names)
    )
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYZCT" Type="uint16" SizeX="30" SizeY="20" SizeZ="3" SizeC="1" SizeT="1" PhysicalSizeX="0.5" '
        f'PhysicalSizeY="0.5" PhysicalSizeZ="2"><Channel ID="Channel:0:0"/>{data}</Pixels></Image></OME>'
    )
    for name, plane in zip(names, CYX):
        tifffile.imwrite(top / name, plane, description=xml, metadata=None)
    assert convert(top, tmp_path / "out")["exit"] == 0
    assert np.array_equal(voxels(tmp_path / "out" / "p_000.ome.zarr")[0, 0], CYX)
    with pytest.raises(SourceFault, match="pass the folder of all of them, or --by-pages"):
        convert(top / names[0], tmp_path / "out")
    assert convert(top, tmp_path / "out", "--by-pages")["exit"] == 0
    assert np.array_equal(voxels(tmp_path / "out" / "in.ome.zarr")[0, 0], CYX)
    assert placed(tmp_path / "out" / "in.ome.zarr")[0][2:] == [2.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("more", "scale", "units"),
    [
        ({"TimeIncrement": 500, "TimeIncrementUnit": "ms", "PhysicalSizeZ": 2}, (0.5, 2, 0.5, 0.5), "tzyx"),
        ({"TimeIncrement": 2, "TimeIncrementUnit": "min", "PhysicalSizeZ": 2}, (120, 2, 0.5, 0.5), "tzyx"),
        ({"TimeIncrement": "", "PhysicalSizeZ": 2}, (1, 2, 0.5, 0.5), "zyx"),
        ({"TimeIncrement": 5, "TimeIncrementUnit": "fortnight", "PhysicalSizeZ": 2}, (1, 2, 0.5, 0.5), "zyx"),
        ({"PhysicalSizeX": "", "PhysicalSizeZ": 2}, (1, 1, 1, 1), ""),
        ({"PhysicalSizeZ": "NaN"}, (1, 1, 0.5, 0.5), "yx"),
        ({}, (1, 1, 0.5, 0.5), "yx"),
        ({"PhysicalSizeZ": 2, "PhysicalSizeZUnit": "nm", "color": "red"}, (1, 0.002, 0.5, 0.5), "zyx"),
    ],
)
def test_numbers_of_an_ome_xml(more: dict[str, Any], scale: tuple[float, ...], units: str, tmp_path: Path) -> None:
    """What makes no sense is unknown, and takes nothing else with it."""
    sizes = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5} | {k: v for k, v in more.items() if k != "color"}
    text = " ".join(f'{name}="{value}"' for name, value in sizes.items())
    color = f'Color="{more["color"]}"' if "color" in more else ""
    xml = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYZCT" Type="uint16" SizeX="30" SizeY="20" SizeZ="3" SizeC="1" SizeT="2" '
        f'{text}><Channel ID="Channel:0:0" {color}/><TiffData/></Pixels></Image></OME>'
    )
    data = np.concatenate([CYX, CYX + 7])
    tifffile.imwrite(tmp_path / "s.ome.tif", data, description=xml, metadata=None, photometric="minisblack")
    assert convert(tmp_path / "s.ome.tif", tmp_path / "out")["exit"] == 0
    image = tmp_path / "out" / "s.ome.zarr"
    assert np.array_equal(voxels(image)[:, 0], data.reshape(2, 3, 20, 30))
    found, _, known = placed(image)
    assert np.allclose([found[0], *found[2:]], scale)
    assert {name for name, unit in known.items() if unit} == set(units)


def test_a_codec_that_is_not_installed_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tifffile.imwrite(tmp_path / "s.tif", CYX, compression="zlib", photometric="minisblack")

    def refuse(*_: Any, **__: Any) -> Any:
        raise ModuleNotFoundError("No module named 'compression'")

    monkeypatch.setattr(tifffile.TiffPage, "decode", property(lambda page: refuse))
    with pytest.raises(SourceFault, match="page 0 is stored with a codec that needs the imagecodecs package"):
        convert(tmp_path / "s.tif", tmp_path / "none")
    assert not (tmp_path / "out" / "compress.json").exists()


@pytest.mark.parametrize("kind", ["offset", "type"])
def test_a_vendor_tag_that_makes_no_sense_is_named_and_its_image_taken(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, CYX, metadata=None, photometric="minisblack", extratags=[(65000, "B", 100, bytes(100), True)]
    )
    content = bytearray(path.read_bytes())
    at = content.index(b"\xe8\xfd\x01\x00\x64\x00\x00\x00")
    if kind == "offset":
        content[at + 8 : at + 12] = (2**31 - 16).to_bytes(4, "little")
    else:
        content[at + 2] = 99
    path.write_bytes(content)
    report = convert(path, tmp_path / "out")
    assert report["exit"] == 0
    assert np.array_equal(voxels(tmp_path / "out" / "a.ome.zarr")[0, 0], CYX)
    assert any("65000" in item or "tag" in item for item in named(report)), report["left_out"]


@pytest.mark.parametrize(
    ("names", "images"),
    [
        (["raw_{:04d}_16bit.tif"], 1),
        (["img{:04d}_20240527.tif"], 1),
        (["20240527_{:d}.tif"], 1),
        (["tile1_{:03d}.tif", "tile2_{:03d}.tif"], 2),
        (["img_ch488_{:03d}_v2.tif", "img_ch561_{:03d}_v2.tif"], 1),
        (["s_C0_{:03d}_8bit.tif", "s_C1_{:03d}_8bit.tif"], 1),
        (["a_z{:02d}_s7.tif"], 1),
    ],
)
def test_the_number_that_varies_is_the_plane(names: list[str], images: int, tmp_path: Path) -> None:
    top = tmp_path / "in"
    top.mkdir()
    for channel, name in enumerate(names):
        for z in range(5):
            tifffile.imwrite(top / name.format(z), np.full((8, 9), 10 * channel + z, "u2"))
    report = convert(top, tmp_path / "out")
    shapes = [image["shape_tczyx"] for image in report["images_"]]
    assert len(shapes) == images
    assert {shape[2] for shape in shapes} == {5}, "five planes each"
    assert sum(shape[1] for shape in shapes) == len(names)
    if images == 1:
        (image,) = (tmp_path / "out").glob("*.ome.zarr")
        assert [int(v) for v in voxels(image)[0, :, :, 0, 0].ravel()] == [
            10 * c + z for c in range(len(names)) for z in range(5)
        ]


def test_a_date_that_changes_at_midnight(tmp_path: Path) -> None:
    top = tmp_path / "in"
    top.mkdir()
    for z in range(6):
        tifffile.imwrite(top / f"img{z:04d}_{20240527 + z // 3}.tif", np.full((8, 9), z, "u2"))
    report = convert(top, tmp_path / "out")
    assert [image["shape_tczyx"] for image in report["images_"]] == [[1, 1, 6, 8, 9]]


def table_of_poses(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["df_with_missing/table"] = np.zeros(9, dtype=[("index", "i8"), ("values", "f8", (6,))])


def table_of_pandas(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["df/block0_values"] = np.zeros((9, 6))
        file["df"].attrs["pandas_type"] = "frame"


def zarr_of_tables(path: Path) -> None:
    group = zarr.open_group(path, mode="w")
    group.create_array("spikes", data=np.arange(100))
    group.create_array("names", data=np.array(["a", "b"], "U4"))


@pytest.mark.parametrize(
    ("name", "write"),
    [("pose.h5", table_of_poses), ("frame.hdf5", table_of_pandas), ("units.zarr", zarr_of_tables)],
)
def test_tables_beside_images_are_copied(name: str, write: Callable[[Path], None], tmp_path: Path) -> None:
    top = tmp_path / "in"
    (top / ".cache").mkdir(parents=True)
    tifffile.imwrite(top / "s.tif", CYX)
    tifffile.imwrite(top / ".cache" / "thumb.tif", CYX[0])
    write(top / name)
    report = convert(top, tmp_path / "out")
    assert (report["exit"], [image["name"] for image in report["images_"]]) == (0, ["s"])
    files = [path for path in top.rglob("*") if path.is_file() and path.name != "s.tif"]
    assert len(files) > 1
    for path in files:
        assert (tmp_path / "out" / path.relative_to(top)).read_bytes() == path.read_bytes()
    (top / "s.tif").unlink()
    with pytest.raises(SourceFault, match="holds no image"):
        convert(top, tmp_path / "out")


def write_ngff(path: Path, **more: Any) -> np.ndarray[Any, Any]:
    data = light_sheet((6, 20, 30))
    group = zarr.open_group(path, mode="w", zarr_format=2)
    for name in ("0", "1"):
        group.create_array(name, data=data[:, :: 1 + int(name), :: 1 + int(name)], chunks=(4, 8, 8))
    image = {
        "version": "0.4",
        "axes": [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"],
        "datasets": [
            {
                "path": name,
                "coordinateTransformations": [
                    {"type": "scale", "scale": [0.002, 0.0005 * (1 + int(name)), 0.0005 * (1 + int(name))]},
                    {"type": "translation", "translation": [0.1, 0.2, 0.3]},
                ],
            }
            for name in ("0", "1")
        ],
        **more,
    }
    group.attrs["multiscales"] = [image]
    return data


def test_transformations_labels_and_levels_of_an_ome_zarr(tmp_path: Path) -> None:
    path = tmp_path / "in" / "img.ome.zarr"
    whole = [{"type": "scale", "scale": [1, 0.5, 0.5]}, {"type": "translation", "translation": [0, 0, 0.01]}]
    data = write_ngff(path, coordinateTransformations=whole)
    labels = zarr.open_group(path / "labels", mode="w", zarr_format=2)
    labels.create_array("cells/0", data=np.ones((6, 20, 30), "u4"))
    (path / "notes.txt").write_text("nobody reads this")
    report = convert(tmp_path / "in", tmp_path / "out")
    image = tmp_path / "out" / "img.ome.zarr"
    assert np.array_equal(voxels(image)[0, 0], data)
    scale, translation, units = placed(image)
    assert np.allclose(scale[2:], (2.0, 0.25, 0.25))
    assert np.allclose(translation[2:], (100, 100, 160))
    assert units["x"] == "micrometer"
    assert named(report) == {"img.ome.zarr/labels", "img.ome.zarr/notes.txt"}
    assert {"img.ome.zarr/1", "img.ome.zarr/.zattrs"} <= named(report, "recomputed")
    assert report["unaccounted"] == []
    # The levels that a source stores are taken where that is asked for, with the place that it says they have: every
    # second voxel is where it was.
    report = convert(tmp_path / "in", tmp_path / "out", "--reuse-pyramid", "--levels", "2")
    assert "img.ome.zarr/1" not in named(report, "recomputed")
    (multiscale,) = json.loads((image / "zarr.json").read_text())["attributes"]["ome"]["multiscales"]
    coarse = [one[one["type"]] for one in multiscale["datasets"][1]["coordinateTransformations"]]
    assert np.allclose(coarse, [[1, 1, 2.0, 0.5, 0.5], [0, 0, 100, 100, 160]])


def test_a_second_multiscales_and_series_of_an_ome_zarr(tmp_path: Path) -> None:
    path = tmp_path / "two.zarr"
    data = write_ngff(path)
    group = zarr.open_group(path, mode="r+", zarr_format=2)
    group.create_array("deconvolved", data=data // 2)
    second = {"name": "deconv", "axes": [{"name": axis} for axis in "zyx"], "datasets": [{"path": "deconvolved"}]}
    group.attrs["multiscales"] = [*group.attrs["multiscales"], second]  # type: ignore[misc]
    convert(path, tmp_path / "out")
    assert np.array_equal(voxels(tmp_path / "out" / "two_0.ome.zarr")[0, 0], data)
    assert np.array_equal(voxels(tmp_path / "out" / "two_deconv.ome.zarr")[0, 0], data // 2)
    # bioformats2raw: a group a series, and the OME-XML of all.
    top = tmp_path / "raw.zarr"
    zarr.open_group(top, mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    for name in ("0", "1"):
        write_ngff(top / name)
    (top / "OME").mkdir()
    (top / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    report = convert(top, tmp_path / "out")
    assert sorted(image["name"] for image in report["images_"]) == ["raw_0", "raw_1"]
    assert "OME" in named(report)
    assert report["unaccounted"] == []


def test_attributes_that_no_image_has_are_named(tmp_path: Path) -> None:
    """Of groups that hold no array, of the file, of arrays: who looks for datasets does not find them."""
    top = tmp_path / "in"
    top.mkdir()
    with h5py.File(top / "a.h5", "w") as file:
        file["volume"] = light_sheet((4, 20, 30))
        file["volume"].attrs["element_size_um"] = [2.0, 1.0, 1.0]
        file.create_group("session/operator").attrs["name"] = "me"
        file.attrs["version"] = 3
    write_imaris(top / "b.ims", light_sheet((1, 1, 6, 20, 30)), (2.0, 0.5, 0.5))
    with h5py.File(top / "b.ims", "r+") as file:
        file.create_group("Scene8/Content/Points0").attrs["Name"] = "spots"
    write_ngff(top / "c.zarr")
    zarr.open_group(top / "c.zarr", mode="r+").attrs["lab"] = {"who": "me"}
    report = convert(top, tmp_path / "out")
    assert named(report) == {
        "a.h5: attributes of /, session/operator", "b.ims: attributes of Scene8/Content/Points0",
        "c.zarr: attributes lab",
    }  # fmt: skip


def test_what_is_too_large_for_a_residue_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pyramid in SubIFDs, for example: small ones are kept with the tags."""
    monkeypatch.setattr(tiff_residue, "LEAST", 1000)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for plane in light_sheet((4, 40, 50)):
            file.write(plane, subifds=1, photometric="minisblack", metadata=None)
            file.write(plane[::2, ::2], subfiletype=1, photometric="minisblack", metadata=None)
    report = convert(tmp_path / "a.tif", tmp_path / "out")
    (item,) = report["left_out"]
    assert item["item"] == "a.tif: all but its voxels"
    assert "of its bytes are not voxels of the image" in item["reason"]


def test_the_place_of_an_imaris_tile(tmp_path: Path) -> None:
    write_imaris(tmp_path / "a.ims", light_sheet((1, 1, 6, 20, 30)), (2.0, 0.5, 0.5))
    with h5py.File(tmp_path / "a.ims", "r+") as file:
        file["Scene8/Content/Spots"] = np.zeros(5)
    report = convert(tmp_path / "a.ims", tmp_path / "out")
    scale, translation, _ = placed(tmp_path / "out" / "a.ome.zarr")
    assert np.allclose((scale[2:], translation[2:]), ((2, 0.5, 0.5), (10, 10, 10)))
    assert named(report) == {"a.ims: Scene8/Content/Spots"}


def test_one_damaged_file_among_good_ones(tmp_path: Path) -> None:
    top = tmp_path / "in"
    (top / "bad").mkdir(parents=True)
    tifffile.imwrite(top / "s.tif", CYX, photometric="minisblack")
    (top / "bad" / "t.tif").write_bytes(b"II*\0junk")
    (top / "bad" / "v.ims").write_bytes(b"not HDF5")
    with pytest.raises(SourceFault, match=r"t\.tif"):
        convert(top, tmp_path / "out")
    report = convert(top, tmp_path / "out", "--accept-damaged")
    assert report["exit"] == 0
    assert len(report["facts"]["damaged"]) == 2
    assert (tmp_path / "out" / "bad" / "v.ims").read_bytes() == b"not HDF5"
    assert voxels(tmp_path / "out" / "s.ome.zarr").shape[2:] == CYX.shape


def test_a_file_that_no_reader_accounts_for_ends_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a reader forgets is found by comparing with the walk of the source."""
    from lading.compress.imaging import zarr_source as zarrsource

    write_ngff(tmp_path / "in" / "img.zarr")
    (tmp_path / "in" / "img.zarr" / "extra").mkdir()
    (tmp_path / "in" / "img.zarr" / "extra" / "data.bin").write_bytes(b"42")
    monkeypatch.setattr(zarrsource, "_rest", lambda *_: iter(()))
    report = convert(tmp_path / "in", tmp_path / "out")
    assert report["exit"] == 3
    assert "img.zarr/extra/data.bin" in report["unaccounted"]
    assert "no reader accounted for them" in capsys.readouterr().err


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_planted_is_accounted_for(tmp_path: Path, data: st.DataObject) -> None:
    plant(tmp_path, data)


@pytest.mark.long
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_is_planted_sixty_times_is_accounted_for(tmp_path: Path, data: st.DataObject) -> None:
    plant(tmp_path, data)


def plant(tmp_path: Path, data: st.DataObject) -> None:
    """Each planted thing is converted (its first voxel is found in an output), copied, or named."""
    top = tmp_path / "in"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    marks: dict[str, int] = {}
    copied: list[str] = []
    number = iter(range(1000, 60000))

    def plane(*shape: int) -> np.ndarray[Any, Any]:
        return np.full(shape, next(number), "u2")

    setups = data.draw(st.sets(st.integers(0, 40), max_size=3), "set-ups")
    times = data.draw(st.integers(0, 99), "first time")
    if setups:
        views = {(t, s): plane(3, 6, 7) for s in setups for t in range(times, times + 2)}
        write_views(top / "views.h5", views)
        marks |= {f"views.h5: t{t}/s{s}": int(one[0, 0, 0]) for (t, s), one in views.items()}
    with h5py.File(top / "plain.hdf5", "w") as file:
        for index in range(data.draw(st.integers(1, 3), "equal datasets")):
            file[f"g/d{index}"] = one = plane(3, 6, 7)
            marks[f"plain.hdf5: g/d{index}"] = int(one[0, 0, 0])
        for index in range(data.draw(st.integers(0, 2), "other datasets")):
            file[f"other{index}"] = one = plane(2, 3 + index)
            marks[f"plain.hdf5: other{index}"] = int(one[0, 0])
    with tifffile.TiffWriter(top / "stack.tif") as writer:
        stack = plane(4, 16, 16)
        writer.write(stack, metadata=None, photometric="minisblack")
        marks["stack.tif: page 0"] = int(stack[0, 0, 0])
        if data.draw(st.booleans(), "a preview"):
            writer.write(one := plane(8, 8), metadata=None, photometric="minisblack", subfiletype=1)
            marks["stack.tif: page 4"] = int(one[0, 0])
    write_ngff(top / "z.zarr")
    for name in data.draw(st.sets(st.sampled_from(["labels", "tables", "9"])), "arrays"):
        one = plane(4, 4)
        zarr.open_group(top / "z.zarr", mode="r+").create_array(name, data=one)
        marks[f"z.zarr/{name}"] = int(one[0, 0])
    for name in data.draw(st.sets(st.sampled_from(["a.txt", ".b", "deep/c.json", "d.csv"])), "side files"):
        (top / name).parent.mkdir(exist_ok=True)
        (top / name).write_text(name)
        copied.append(name)
    report = convert(top, tmp_path / "out")
    assert report["exit"] == 0
    assert report["unaccounted"] == []
    found = {int(value) for image in (tmp_path / "out").glob("*.ome.zarr") for value in np.unique(voxels(image))}
    told = named(report)
    for name, mark in marks.items():
        assert mark in found or name in told, f"{name} is in no output, and nothing says so: {told}"
    assert all((tmp_path / "out" / name).read_text() == name for name in copied)
