"""Images that lie in several files, or several in one: sets of OME-TIFF, NDTiff, series, colour planes, PNG tiles."""

import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from lading.compress import launcher
from lading.compress.job import SourceFault
from lading.core.errors import LadingError
from tests.images import light_sheet
from tests.integration.test_case_data import convert, placed, voxels


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))


def tiff_set(
    top: Path, planes: Any, files: Sequence[str], companion: str = "", orders: str = "<", more: str = ""
) -> None:
    """Write planes along z as a set of OME-TIFF files, each with the XML of all, or the companion alone.

    The file ``more`` has a page that no XML declares.
    """
    uuids = [f"urn:uuid:00000000-0000-0000-0000-{number:012d}" for number in range(len(files))]
    share = len(planes) // len(files)
    where = "".join(
        f'<TiffData FirstZ="{z}" FirstC="0" FirstT="0" IFD="{z % share}" PlaneCount="1">'
        f'<UUID FileName="{files[z // share]}">{uuids[z // share]}</UUID></TiffData>'
        for z in range(len(planes))
    )
    space = 'xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"'
    for number, name in enumerate(files):
        xml = (
            f'<OME {space} UUID="{uuids[number]}"><Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" '
            f'Type="uint16" SizeX="{planes.shape[2]}" SizeY="{planes.shape[1]}" SizeZ="{len(planes)}" SizeC="1" '
            f'SizeT="1" '
            f'PhysicalSizeX="0.5" PhysicalSizeY="0.5" PhysicalSizeZ="2"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>'
            f"{where}</Pixels></Image></OME>"
        )
        if companion and name != companion:
            xml = (
                f'<OME {space} UUID="{uuids[number]}"><BinaryOnly MetadataFile="{companion}" UUID="{uuids[-1]}"/></OME>'
            )
        with tifffile.TiffWriter(top / name, byteorder=orders[number % len(orders)]) as file:
            for place in range(share):
                text = f'<?xml version="1.0" encoding="UTF-8"?>{xml}' if not place else None
                plane = planes[number * share + place]
                file.write(plane, photometric="minisblack", description=text, metadata=None)
            if name == more:
                file.write(planes[0], photometric="minisblack", metadata=None)


@pytest.mark.parametrize("companion", ["", "MM_2.ome.tif"])
def test_a_set_of_ome_files_is_one_image(companion: str, tmp_path: Path) -> None:
    planes = light_sheet((6, 40, 50))
    (tmp_path / "in").mkdir()
    tiff_set(tmp_path / "in", planes, ["MM.ome.tif", "MM_1.ome.tif", "MM_2.ome.tif"], companion)
    report = convert(tmp_path / "in", tmp_path / "out")
    (image,) = report["facts"]["images"]
    assert image["voxel_um_zyx"] == [2.0, 0.5, 0.5]
    assert np.array_equal(voxels(tmp_path / "out" / f"{image['name']}.ome.zarr")[0, 0], planes)
    assert report["not_carried"] == report["unaccounted"] == []
    (tmp_path / "in" / "MM_1.ome.tif").unlink()
    with pytest.raises(LadingError, match="are missing"):
        convert(tmp_path / "in", tmp_path / "out2")


def test_images_of_one_file_are_apart(tmp_path: Path) -> None:
    one, two = light_sheet((3, 40, 50)), light_sheet((2, 20, 30))
    (tmp_path / "in").mkdir()
    with tifffile.TiffWriter(tmp_path / "in" / "x.ome.tif") as file:
        for data, axes, size in ((one, "ZYX", 0.5), (two, "CYX", 0.25)):
            metadata = {"axes": axes, "PhysicalSizeX": size, "PhysicalSizeY": size, "PhysicalSizeZ": 1}
            file.write(data, photometric="minisblack", metadata=metadata)
    report = convert(tmp_path / "in", tmp_path / "out")
    sizes = {image["name"]: image["voxel_um_zyx"][2] for image in report["facts"]["images"]}
    assert sizes == {"x_s0": 0.5, "x_s1": 0.25}
    assert np.array_equal(voxels(tmp_path / "out" / "x_s0.ome.zarr")[0, 0], one)
    assert np.array_equal(voxels(tmp_path / "out" / "x_s1.ome.zarr")[0, :, 0], two)


def test_colour_planes_are_a_series(tmp_path: Path) -> None:
    planes = np.moveaxis(light_sheet((3, 4, 40, 50), dtype="uint8"), 0, -1)
    (tmp_path / "in").mkdir()
    for z, plane in enumerate(planes):
        tifffile.imwrite(tmp_path / "in" / f"p_{z:03d}.tif", plane, photometric="rgb")
    report = convert(tmp_path / "in", tmp_path / "out")
    found = voxels(tmp_path / "out" / f"{report['facts']['images'][0]['name']}.ome.zarr")
    assert np.array_equal(found[0], np.moveaxis(planes, -1, 0))


def ndtiff(planes: np.ndarray[Any, Any]) -> tuple[bytes, list[int]]:
    """Return a file of NDTiff 3 and where its planes are: a TIFF whose header goes on with its own magic numbers."""
    summary = b'{"PixelSizeUm": 0.5, "z-step_um": 2}'
    head = struct.pack("<5I", 483729, 3, 0, 2355492, len(summary)) + summary
    content = bytearray(b"II*\0" + struct.pack("<I", 8 + len(head)) + head)
    offsets = []
    for number, plane in enumerate(planes):
        height, width = plane.shape
        note = b'{"Slice": 0}\0'
        start = len(content) + 2 + 12 * 10 + 4
        entries = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1),
            (273, 4, 1, start + len(note)), (277, 3, 1, 1), (278, 3, 1, height), (279, 4, 1, plane.nbytes),
            (51123, 2, len(note), start),
        ]  # fmt: skip
        end = start + len(note) + plane.nbytes
        content += struct.pack("<H", 10) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        content += struct.pack("<I", 0 if number == len(planes) - 1 else end) + note
        offsets.append(len(content))
        content += plane.astype("<u2").tobytes()
    return bytes(content), offsets


def write_ndtiff(top: Path, planes: np.ndarray[Any, Any]) -> None:
    """Write axes position, z, channel in two files and their index; the last plane of a position is in the other."""
    index = b""
    places = [(position, z, c) for position in range(2) for z in range(3) for c in range(2)]
    shares = [[*places[:5], places[11]], [*places[6:11], places[5]]]
    for name, share in zip(("NDTiffStack.tif", "NDTiffStack_1.tif"), shares):
        content, offsets = ndtiff(np.stack([planes[place] for place in share]))
        (top / name).write_bytes(content)
        for (position, z, c), offset in zip(share, offsets):
            axes = json.dumps({"position": position, "z": z, "channel": ("DAPI", "GFP")[c]}).encode()
            index += struct.pack("<I", len(axes)) + axes + struct.pack("<I", len(name)) + name.encode()
            index += struct.pack("<8I", offset, 50, 40, 1, 0, offset, 0, 0)
    (top / "NDTiff.index").write_bytes(index)


def test_ndtiff_has_an_image_for_each_position(tmp_path: Path) -> None:
    """Micro-Manager's NDTiff: an index says where each plane is, in any of its files."""
    planes = light_sheet((2, 3, 2, 40, 50))
    (tmp_path / "in").mkdir()
    write_ndtiff(tmp_path / "in", planes)
    report = convert(tmp_path / "in", tmp_path / "out")
    images = sorted(image["name"] for image in report["facts"]["images"])
    assert len(images) == 2, images
    for number, name in enumerate(images):
        assert np.array_equal(voxels(tmp_path / "out" / f"{name}.ome.zarr")[0], planes[number].transpose(1, 0, 2, 3))
        about = json.loads((tmp_path / "out" / f"{name}.ome.zarr" / "zarr.json").read_text())["attributes"]["ome"]
        assert [channel["label"] for channel in about["omero"]["channels"]] == ["DAPI", "GFP"]
    assert report["facts"]["images"][0]["voxel_um_zyx"] == [2.0, 0.5, 0.5]
    assert report["unaccounted"] == []


def micromanager(planes: np.ndarray[Any, Any], places: Sequence[tuple[int, int, int, int]], summary: Any) -> bytes:
    """Return a file of Micro-Manager's multi-page TIFF: ``places`` are (channel, slice, frame, position) of its planes.

    Its own header follows that of TIFF, and the map of its planes stands at its end.
    """
    text = json.dumps(summary).encode()
    content = bytearray(b"II*\0" + bytes(36) + text)
    content += bytes(len(content) % 2)
    starts = []
    for number, plane in enumerate(planes):
        height, width = plane.shape
        starts.append(len(content))
        note = b'{"Slice": 0, "ImageNumber": 1}\0\0'
        after = len(content) + 162 + plane.nbytes + len(note)
        entries = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1), (262, 3, 1, 1), (270, 2, 1, 0),
            (273, 4, 1, len(content) + 162), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, plane.nbytes),
            (284, 3, 1, 1), (296, 3, 1, 1), (51123, 2, len(note), after - len(note)),
        ]  # fmt: skip
        content += struct.pack("<H", 13) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
        content += struct.pack("<I", 0 if number == len(planes) - 1 else after) + plane.astype("<u2").tobytes()
        content += note
    at = len(content)
    content += struct.pack("<II", 3453623, len(places))
    content += b"".join(struct.pack("<5I", *place, start) for place, start in zip(places, starts))
    struct.pack_into("<I8I", content, 4, starts[0], 54773648, at, 483765892, 0, 99384722, 0, 2355492, len(text))
    return bytes(content)


def write_mmstack(top: Path, stack: np.ndarray[Any, Any]) -> None:
    """Write axes position, z, channel: a file a position, channels of a plane in another order than the axes."""
    positions, slices, channels = stack.shape[:3]
    for position in range(positions):
        places = [(c, z, 0, position) for z in range(slices) for c in reversed(range(channels))]
        planes = np.stack([stack[position, z, c] for c, z, _, _ in places])
        summary = {
            "MicroManagerVersion": "2.0", "Frames": 1, "Slices": slices, "Channels": channels, "Positions": positions,
            "Prefix": "run", "SlicesFirst": False, "TimeFirst": False, "PixelSize_um": 0.25, "z-step_um": 1.5,
        }  # fmt: skip
        (top / f"run_MMStack_Pos{position}.tif").write_bytes(micromanager(planes, places, summary))


def test_planes_of_micromanager_are_where_its_own_map_says(tmp_path: Path) -> None:
    """A file for each position, whose planes were taken in another order than tifffile counts them."""
    stack = light_sheet((2, 3, 2, 40, 50))  # position, z, channel
    (tmp_path / "in").mkdir()
    write_mmstack(tmp_path / "in", stack)
    report = convert(tmp_path / "in", tmp_path / "out")
    images = sorted(image["name"] for image in report["facts"]["images"])
    assert len(images) == 2, images
    for number, name in enumerate(images):
        assert np.array_equal(voxels(tmp_path / "out" / f"{name}.ome.zarr")[0], stack[number].transpose(1, 0, 2, 3))
    assert report["facts"]["images"][0]["voxel_um_zyx"] == [1.5, 0.25, 0.25]
    assert report["unaccounted"] == []


def test_a_plane_of_a_set_that_no_metadata_declare_is_refused(tmp_path: Path) -> None:
    planes = light_sheet((6, 40, 50))
    (tmp_path / "in").mkdir()
    tiff_set(tmp_path / "in", planes, ["MM.ome.tif", "MM_1.ome.tif", "MM_2.ome.tif"], more="MM_1.ome.tif")
    with pytest.raises(SourceFault, match=r"MM_1\.ome\.tif: holds page 2, which the metadata of its set do not"):
        convert(tmp_path / "in", tmp_path / "out")


def test_files_of_both_byte_orders_are_one_image(tmp_path: Path) -> None:
    planes = light_sheet((6, 40, 50))
    for top in ("series", "set"):
        (tmp_path / top).mkdir()
    for z, plane in enumerate(planes):
        tifffile.imwrite(
            tmp_path / "series" / f"p_{z}.tif", plane, byteorder="<>"[z % 2], tile=(16, 16) if z == 3 else ()
        )
    tiff_set(tmp_path / "set", planes, ["a.ome.tif", "b.ome.tif"], orders="<>")
    for top in ("series", "set"):
        report = convert(tmp_path / top, tmp_path / "out")
        (image,) = report["facts"]["images"]
        assert np.array_equal(voxels(tmp_path / "out" / f"{image['name']}.ome.zarr")[0, 0], planes), top


def test_the_place_of_a_tile_is_that_of_the_stage(tmp_path: Path) -> None:
    """OME: Plane/@PositionX, of the first plane; without a unit of length it is no place."""
    for unit, expected in (("mm", [0.0, 2500.0, 1000.0]), ("reference frame", [0.0, 0.0, 0.0])):
        xml = (
            '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
            'DimensionOrder="XYZCT" Type="uint16" SizeX="50" SizeY="40" SizeZ="3" SizeC="1" SizeT="1" '
            'PhysicalSizeX="0.5" PhysicalSizeY="0.5" PhysicalSizeZ="2"><Channel ID="Channel:0:0"/><TiffData/>'
            + "".join(
                f'<Plane TheZ="{z}" TheC="0" TheT="0" PositionX="{1 + z}" PositionXUnit="{unit}" PositionY="2.5" '
                f'PositionYUnit="{unit}"/>'
                for z in range(3)
            )
            + "</Pixels></Image></OME>"
        )
        tifffile.imwrite(
            tmp_path / "t.ome.tif", light_sheet((3, 40, 50)), description=xml, metadata=None, photometric="minisblack"
        )
        convert(tmp_path / "t.ome.tif", tmp_path / "out", "--levels", "2")
        assert placed(tmp_path / "out" / "t.ome.zarr")[1][2:] == expected


def write_png(path: Path, plane: np.ndarray[Any, Any], filters: Sequence[int]) -> None:
    """Write a PNG whose lines have these filters in turn (ISO/IEC 15948, 9)."""
    height, width = plane.shape[:2]
    samples = plane.shape[2] if plane.ndim == 3 else 1
    step = samples * plane.dtype.itemsize
    lines = np.frombuffer(plane.astype(plane.dtype.newbyteorder(">")).tobytes(), "u1").reshape(height, -1).astype(int)
    packed = b""
    for row, line in enumerate(lines):
        above = lines[row - 1] if row else np.zeros_like(line)
        left, corner = (np.concatenate([np.zeros(step, int), one[:-step]]) for one in (line, above))
        guess = left + above - corner
        distances = np.abs(guess - left), np.abs(guess - above), np.abs(guess - corner)
        nearest = np.where(distances[1] <= distances[2], above, corner)
        paeth = np.where((distances[0] <= distances[1]) & (distances[0] <= distances[2]), left, nearest)
        chosen = filters[row % len(filters)]
        packed += (
            bytes([chosen])
            + ((line - [0, left, above, (left + above) // 2, paeth][chosen]) % 256).astype("u1").tobytes()
        )

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8 * plane.dtype.itemsize, {1: 0, 3: 2}[samples], 0, 0, 0)
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("filters", [(0,), (1, 2), (0, 1, 2, 3, 4)])
def test_png_tiles_of_smartspim(filters: Sequence[int], tmp_path: Path) -> None:
    tiles = {"471320_514310": light_sheet((3, 40, 50), 1), "471320_539390": light_sheet((3, 40, 50), 2)}
    for tile, planes in tiles.items():
        folder = tmp_path / "in" / "Ex_488_Em_525" / tile.split("_")[0] / tile
        folder.mkdir(parents=True)
        for z, plane in enumerate(planes):
            write_png(folder / f"{10 * z:06d}.png", plane, filters)
    write_png(tmp_path / "in" / "preview.png", light_sheet((1, 40, 50), dtype="uint8")[0], (0,))
    (tmp_path / "in" / "metadata.json").write_text("{}")
    report = convert(tmp_path / "in", tmp_path / "out")
    assert len(report["facts"]["images"]) == 2
    for tile, planes in tiles.items():
        image = tmp_path / "out" / f"Ex_488_Em_525_471320_{tile}.ome.zarr"
        assert np.array_equal(voxels(image)[0, 0], planes)
    assert (tmp_path / "out" / "preview.png").read_bytes() == (tmp_path / "in" / "preview.png").read_bytes()
    assert report["not_carried"] == report["unaccounted"] == []


def test_damaged_png_is_a_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    for z, plane in enumerate(light_sheet((3, 40, 50))):
        write_png(tmp_path / "in" / f"p{z}.png", plane, (0, 4))
    spoilt = tmp_path / "in" / "p1.png"
    whole = spoilt.read_bytes()

    def said() -> str:
        try:
            convert(tmp_path / "in", tmp_path / "out")
        except (LadingError, FileNotFoundError) as error:
            assert not (tmp_path / "out" / "compress.json").exists()
            return f"{error} {capfd.readouterr().err}"
        raise AssertionError("it was compressed")

    for place, reason in (
        (20, "is not a readable PNG"),
        (60, "is damaged or truncated"),
        (-3, "is damaged or truncated"),
    ):
        content = bytearray(whole)
        content[place] ^= 16
        spoilt.write_bytes(content)
        found = said()
        assert f"{spoilt}: " in found
        assert reason in found
    spoilt.write_bytes(whole[:200])
    assert "is damaged or truncated" in said()
