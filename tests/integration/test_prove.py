"""``lading prove`` and ``lading decompress``: the bytes of the originals, from the compressed copy alone."""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import h5py
import numpy as np
import pytest
import tifffile

from lading.cli import compress as command
from lading.cli import prove
from lading.compress import launcher
from lading.core.errors import LadingError, UsageError
from lading.testing.ephys_data import make_samples, write_openephys, write_spikeglx
from lading.testing.s3_server import Server
from tests.images import light_sheet, write_imaris
from tests.integration.test_case_recordings import add_series
from tests.integration.test_image_sets import tiff_set, write_mmstack, write_ndtiff
from tests.kinds import tree_bytes

AP = "Neuropix-PXI-100.ProbeA-AP"
SMALL = ["--chunk", "8,8,16", "--shard", "16,32,32", "--levels", "2"]
Made = tuple[str, list[str]]


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))


def open_ephys(top: Path) -> Made:
    for recording in (1, 2):
        write_openephys(top, {AP: make_samples(700, 8, recording, units=3)}, recording=recording)
    return "ephys", ["--chunk-seconds", "0.01"]


def corrected(top: Path) -> Made:
    write_openephys(top, {AP: make_samples(900, 8, 0, step=12, offset=300, units=3)})
    return "ephys", ["--correct"]


def wavpack(top: Path) -> Made:
    pytest.importorskip("wavpack_numcodecs")
    write_openephys(top, {AP: make_samples(500, 8, 0, units=3)})
    return "ephys", ["--codec", "wavpack"]


def interleaved(top: Path) -> Made:
    """Neural, ADC and sync channels in one file: three groups."""
    write_openephys(top, {AP: make_samples(900, 8, 0, units=3)})
    (structure,) = top.rglob("structure.oebin")
    found = json.loads(structure.read_text())
    for channel, name in zip(found["continuous"][0]["channels"][3:6], ("ADC1", "ADC2", "CH9")):
        channel["channel_name"] = name
    structure.write_text(json.dumps(found))
    return "ephys", ["--chunk-seconds", "0.01", "--codec", "blosc-zstd"]


def no_clip(top: Path) -> Made:
    write_openephys(top, {AP: make_samples(900, 8, 0, units=3)})
    return "ephys", ["--no-clip"]


def spikeglx(top: Path) -> Made:
    for trigger in (0, 1):
        write_spikeglx(top, make_samples(400, 384, trigger, units=3), trigger=trigger)
    return "ephys", []


def raw_binary(top: Path) -> Made:
    samples = make_samples(900, 8, 0, units=3).astype("<i4")
    (top / "a.bin").write_bytes(b"HEADER " * 3 + samples.tobytes())
    fields = {"files": "a.bin", "channels": 8, "sampling_frequency": 3e4, "dtype": "int32", "header_bytes": 21}
    (top / "a.recording.yaml").write_text(json.dumps(fields))
    return "ephys", []


def nwb(top: Path, **storage: Any) -> Made:
    with h5py.File(top / "s.nwb", "w") as file:
        samples = make_samples(1000, 9, 0, units=3)
        series = add_series(file, "acquisition/ES", samples, timestamps=np.arange(1000) / 3e4)
        file["general/note"] = "text"
        if storage:
            attributes = dict(series["data"].attrs)
            del series["data"]
            series.create_dataset("data", data=samples, **storage).attrs.update(attributes)
    return "ephys", ["--chunk-seconds", "0.01"]


def nwb_chunked(top: Path) -> Made:
    return nwb(top, chunks=(128, 4))


def nwb_packed(top: Path) -> Made:
    return nwb(top, chunks=(128, 4), compression="gzip", shuffle=True)


def stack(top: Path) -> Made:
    tifffile.imwrite(top / "a.tif", light_sheet((20, 40, 50)), photometric="minisblack")
    (top / "notes.txt").write_text("a sidecar")
    return "imaging", []


def ome_stack(top: Path) -> Made:
    metadata = {"axes": "TCZYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}
    tifffile.imwrite(top / "a.ome.tif", light_sheet((2, 2, 5, 40, 50)), photometric="minisblack", metadata=metadata)
    return "imaging", []


def imagej(top: Path) -> Made:
    tifffile.imwrite(top / "a.tif", light_sheet((3, 5, 2, 40, 50)), imagej=True, metadata={"axes": "TZCYX"})
    return "imaging", []


def big_endian(top: Path) -> Made:
    tifffile.imwrite(top / "a.tif", light_sheet((9, 40, 50)), byteorder=">", bigtiff=True, rowsperstrip=7)
    return "imaging", ["--ngff", "0.4"]


def floats(top: Path) -> Made:
    image = light_sheet((9, 40, 50), dtype="float32")
    image[3, 5, 6] = np.nan
    tifffile.imwrite(top / "a.tif", image, metadata=None)
    return "imaging", []


def tiles(top: Path) -> Made:
    tifffile.imwrite(top / "a.tif", light_sheet((9, 50, 70)), tile=(16, 32), photometric="minisblack")
    return "imaging", []


def colours(top: Path) -> Made:
    image = np.moveaxis(light_sheet((3, 40, 50), dtype="uint8"), 0, -1)
    for name in ("a", "b"):
        (top / name).mkdir()
    tifffile.imwrite(top / "a" / "a.tif", image, photometric="rgb")
    planes = light_sheet((3, 40, 50), dtype="uint8")
    tifffile.imwrite(top / "b" / "b.tif", planes, photometric="rgb", planarconfig="separate")
    return "imaging", []


def series(top: Path) -> Made:
    for c in (488, 561):
        for z, plane in enumerate(light_sheet((6, 40, 50), seed=c)):
            tifffile.imwrite(top / f"p_C{c}_Z{z:03d}.tif", plane, description=f"plane {z}")
    return "imaging", []


def ome_set(top: Path) -> Made:
    tiff_set(top, light_sheet((6, 40, 50)), ["MM.ome.tif", "MM_1.ome.tif", "MM_2.ome.tif"], orders="<>")
    return "imaging", []


def positions(top: Path) -> Made:
    """Two images, each in a file of its own, or both in both files."""
    stack = light_sheet((2, 3, 2, 40, 50))
    for folder in ("a", "b"):
        (top / folder).mkdir()
    write_mmstack(top / "a", stack)
    write_ndtiff(top / "b", stack)
    return "imaging", []


def several(top: Path) -> Made:
    with tifffile.TiffWriter(top / "x.ome.tif") as file:
        for data, axes in ((light_sheet((3, 40, 50)), "ZYX"), (light_sheet((2, 20, 30), dtype="uint8"), "CYX")):
            file.write(data, photometric="minisblack", metadata={"axes": axes})
    return "imaging", []


def generic(top: Path) -> Made:
    (top / "deep").mkdir()
    (top / "deep" / "compress.json").write_bytes(os.urandom(1000))
    (top / "compress.json").write_bytes(b"mine")
    return "generic", []


def zipped(top: Path) -> Made:
    return generic(top)[0], ["--pack", "aes"]


def legacy(top: Path) -> Made:
    pytest.importorskip("pyminizip")
    return generic(top)[0], ["--pack", "legacy"]


WRITERS: list[Callable[[Path], Made]] = [
    open_ephys, corrected, wavpack, interleaved, no_clip, spikeglx, raw_binary, nwb, nwb_chunked, nwb_packed, stack,
    ome_stack, imagej, big_endian, floats, tiles, colours, series, ome_set, positions, several, generic,
    zipped, legacy,
]  # fmt: skip


def compress(write: Callable[[Path], Made], top: Path, monkeypatch: pytest.MonkeyPatch, to: str = "") -> Path:
    monkeypatch.setenv("LADING_ZIP_PASSWORD", "hush")
    source = top / "in"
    source.mkdir()
    kind, flags = write(source)
    flags = [*flags, *(SMALL if kind == "imaging" else [])]
    out = to or str(top / "out")
    state = ["--state", str(top / "state")]
    assert command.main([str(source), out, "--kind", kind, "--workers", "1", *state, *flags]) == 0
    return source


def proved(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = prove.main(["prove", *map(str, words), "--json"])
    return code, json.loads(capsys.readouterr().out)


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_the_originals_come_back(
    write: Callable[[Path], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = compress(write, tmp_path, monkeypatch)
    originals = tree_bytes(source)
    shutil.move(source, tmp_path / "gone")
    out = tmp_path / "out"
    left_out = {"no_clip": len(originals) - 1}.get(write.__name__, 0)
    code, found = proved(capsys, out)
    assert (code, found["equal"], found["different"], found["not_promised"]) == (0, len(originals) - left_out, [], [])
    assert len(found["not_carried"]) == left_out
    assert prove.main(["decompress", str(out), str(tmp_path / "back")]) == 0
    back = tree_bytes(tmp_path / "back")
    assert {path: data for path, data in originals.items() if path in back} == back
    assert len(back) == len(originals) - left_out
    # One bit anywhere in the copy.
    files = sorted(path for path in out.rglob("*") if path.stat().st_size and path.is_file())
    files.remove(out / "compress.json")
    chance = random.Random(write.__name__)
    for path in chance.sample(files, min(4, len(files))):
        held = path.read_bytes()
        flip(path, chance)
        assert proved(capsys, out)[0] == 4, path
        path.write_bytes(held)


def test_one_file_by_name_and_from_a_bucket(
    s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1")
    bucket = f"c-{os.urandom(6).hex()}"
    client.create_bucket(Bucket=bucket)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    compress(open_ephys, tmp_path / "a", monkeypatch, f"s3://{bucket}/s/ecephys")
    compress(series, tmp_path / "b", monkeypatch, f"s3://{bucket}/s/SPIM")
    originals = len(tree_bytes(tmp_path / "a" / "in")) + len(tree_bytes(tmp_path / "b" / "in"))
    code, found = proved(capsys, f"s3://{bucket}/s")
    assert (code, found["equal"]) == (0, originals)
    code, found = proved(capsys, f"s3://{bucket}/s", "SPIM/p_C488_Z003.tif", "*/recording2/*.dat")
    assert (code, found["equal"]) == (0, 2)
    code, found = proved(capsys, f"s3://{bucket}/s", "*recording2*continuous.dat")
    assert (code, found["equal"]) == (0, 1)
    (key,) = [
        item["Key"]
        for item in client.list_objects_v2(Bucket=bucket, Prefix="s/ecephys/")["Contents"]
        if item["Key"].endswith("traces_seg1/0.0") and "SYNC" not in item["Key"]
    ]
    body = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
    body[len(body) // 2] ^= 4
    client.put_object(Bucket=bucket, Key=key, Body=bytes(body))
    code, found = proved(capsys, f"s3://{bucket}/s")
    assert code == 4
    assert [one["path"].split("/")[-1] for one in found["different"]] == ["continuous.dat"]
    assert "recording2" in found["different"][0]["path"]
    assert key.removeprefix("s/ecephys/") in found["different"][0]["reason"]


def test_what_is_not_promised_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(top: Path) -> Made:
        tifffile.imwrite(top / "packed.tif", light_sheet((9, 40, 50)), compression="zlib")
        tifffile.imwrite(top / "plain.tif", light_sheet((9, 40, 50)))
        write_imaris(top / "a.ims", light_sheet((9, 40, 50))[None, None], (2.0, 1.0, 1.0))
        return "imaging", []

    compress(write, tmp_path, monkeypatch)
    code, found = proved(capsys, tmp_path / "out")
    assert (code, found["equal"]) == (0, 1)
    reasons = {one["path"]: one["reason"] for one in found["not_promised"]}
    assert "bytes of voxels that it stores compressed (at " in reasons["packed.tif"]
    assert "everything but voxels of the image" in reasons["a.ims"]
    assert proved(capsys, tmp_path / "out", "packed.tif")[0] == 3, "asked for by name"
    assert proved(capsys, tmp_path)[1]["equal"] == 1, "the state beside it is not another session"
    assert prove.main(["decompress", str(tmp_path / "out"), str(tmp_path / "back")]) == 3
    assert sorted(tree_bytes(tmp_path / "back")) == ["plain.tif"]
    with pytest.raises(UsageError, match="names no such source file"):
        proved(capsys, tmp_path / "out", "other.tif")
    with pytest.raises(UsageError, match="already exists"):
        prove.main(["decompress", str(tmp_path / "out"), str(tmp_path / "back")])
    with pytest.raises(UsageError, match="and none of its folders has one"):
        proved(capsys, tmp_path / "in")


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../../x", "a//b"])
def test_no_path_of_a_report_leads_out(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compress(generic, tmp_path, monkeypatch)
    report = tmp_path / "out" / "compress.json"
    found = json.loads(report.read_text())
    found["sources"][0]["path"] = path
    report.write_text(json.dumps(found))
    with pytest.raises(LadingError, match="is damaged"):
        prove.main(["decompress", str(tmp_path / "out"), str(tmp_path / "back")])
    assert not (tmp_path / "back").exists()
