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
from lading.core.errors import LadingError
from tests.images import light_sheet
from tests.integration.test_case_data import convert, voxels


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))


def tiff_set(top: Path, planes: Any, files: Sequence[str], companion: str = "") -> None:
    """Write planes along z as a set of OME-TIFF files, each with the XML of all, or the companion alone."""
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
        with tifffile.TiffWriter(top / name) as file:
            for place in range(share):
                text = f'<?xml version="1.0" encoding="UTF-8"?>{xml}' if not place else None
                plane = planes[number * share + place]
                file.write(plane, photometric="minisblack", description=text, metadata=None)


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
    summary = b'{"PixelSizeUm": 0.5}'
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


def test_ndtiff_has_an_image_for_each_position(tmp_path: Path) -> None:
    """Micro-Manager's NDTiff: an index says where each plane is, in any of its files."""
    planes = light_sheet((2, 3, 2, 40, 50))  # position, z, channel
    (tmp_path / "in").mkdir()
    index = b""
    for number, name in enumerate(("NDTiffStack.tif", "NDTiffStack_1.tif")):
        content, offsets = ndtiff(planes[number].reshape(6, 40, 50))
        (tmp_path / "in" / name).write_bytes(content)
        for (z, c), offset in zip(np.ndindex(3, 2), offsets):
            axes = json.dumps({"position": number, "z": z, "channel": ("DAPI", "GFP")[c]}).encode()
            index += struct.pack("<I", len(axes)) + axes + struct.pack("<I", len(name)) + name.encode()
            index += struct.pack("<8I", offset, 50, 40, 1, 0, offset, 0, 0)
    (tmp_path / "in" / "NDTiff.index").write_bytes(index)
    report = convert(tmp_path / "in", tmp_path / "out")
    images = sorted(image["name"] for image in report["facts"]["images"])
    assert len(images) == 2, images
    for number, name in enumerate(images):
        assert np.array_equal(voxels(tmp_path / "out" / f"{name}.ome.zarr")[0], planes[number].transpose(1, 0, 2, 3))
    assert report["unaccounted"] == []


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
