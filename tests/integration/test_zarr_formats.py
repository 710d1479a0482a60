"""Recordings in Zarr format 3: shards, equal samples for zarr itself, fewer files, and originals that come back."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from lading.cli import compress as command
from lading.cli import prove
from lading.compress import launcher
from lading.compress.async_writer import AsyncFsyncWriter
from lading.compress.ephys import ephys_plan as ephys
from lading.compress.ephys.shards import encode_index
from lading.compress.job import CompressionJob, VerificationFailed
from lading.core.errors import UsageError
from lading.testing.ephys_data import make_samples, write_openephys, write_spikeglx

AP = "Neuropix-PXI-100.ProbeA-AP"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))
    # Several chunks and shards of little data.
    monkeypatch.setattr("lading.compress.ephys.zarr_layout.SMALLEST_CHUNK", 1)


def compress(source: Path, out: Path, *flags: str) -> dict[str, Any]:
    assert command.main([str(source), str(out), "--kind", "ephys", "--workers", "1", *flags]) == 0
    return dict(json.loads((out / "compress.json").read_text()))


def group(out: Path, name: str) -> Any:
    (path,) = (out / "ecephys_compressed").glob(f"*{name}.zarr")
    return zarr.open_group(path, mode="r")


@pytest.mark.parametrize("flags", [(), ("--correct",), ("--codec", "blosc-zstd")])
def test_equal_to_format_2_and_to_the_source(flags: tuple[str, ...], tmp_path: Path) -> None:
    """Two recordings, of which the longer has a shard that is not full and a chunk that is not."""
    samples = {number: make_samples(frames, 20, number, step=12, offset=9) for number, frames in ((1, 3950), (2, 700))}
    for number, one in samples.items():
        write_openephys(tmp_path / "in", {AP: one}, recording=number)
    told = {
        version: compress(
            tmp_path / "in", tmp_path / version, "--zarr-format", version, "--chunk-seconds", "0.01", *flags
        )
        for version in "23"
    }
    three, two = (group(tmp_path / version, AP) for version in "32")
    for number, one in samples.items():
        array = three[f"traces_seg{number - 1}"]
        assert array.metadata.zarr_format == 3
        stored = array[:].astype(int)
        if "--correct" in flags:
            fixed = three.attrs["lading"]["correction"]
            stored = stored * fixed["step"] + np.array(fixed["medians"])
        assert np.array_equal(stored, one)
        assert np.array_equal(array[:], two[f"traces_seg{number - 1}"][:])
        assert array.shards[0] > array.chunks[0]
        if "times_seg0" in two:
            assert np.array_equal(three[f"times_seg{number - 1}"][:], two[f"times_seg{number - 1}"][:])
    assert list(three["channel_ids"][:]) == list(two["channel_ids"][:])
    assert {name: list(map(str, three["properties"][name][:])) for name in two["properties"]} == {
        name: list(map(str, two["properties"][name][:])) for name in two["properties"]
    }
    assert {**three.attrs, "lading": None} == {**two.attrs, "lading": None}
    files = {
        version: sum(path.is_file() for path in (tmp_path / version).rglob("traces_seg*/**/*")) for version in "23"
    }
    assert files["3"] < files["2"] / 4
    assert [row["zarr_format"] for row in told["3"]["facts"]["streams"]] == [3] * len(told["3"]["facts"]["streams"])
    assert all(row["preview"] for row in told["3"]["facts"]["streams"] if row["content"] == "neural")
    assert prove.main(["prove", str(tmp_path / "3")]) == 0


def test_spikeglx_comes_back(tmp_path: Path) -> None:
    write_spikeglx(tmp_path / "in", make_samples(3000, 384, 1, units=5))
    compress(tmp_path / "in", tmp_path / "out", "--zarr-format", "3", "--chunk-seconds", "0.02")
    assert prove.main(["prove", str(tmp_path / "out")]) == 0
    # A flipped bit is found.
    shard = max((tmp_path / "out").rglob("traces_seg0/c/0/0"), key=lambda path: path.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 8
    shard.write_bytes(data)
    assert prove.main(["prove", str(tmp_path / "out")]) == 4


@pytest.mark.parametrize(
    ("frames", "channels", "length", "shards"),
    [(0, 2, 10, 4), (1, 1, 10, 4), (9, 3, 10, 4), (10, 2, 10, 32), (330, 5, 10, 32), (323, 1, 10, 5), (641, 2, 20, 1)],
)
def test_any_shape(tmp_path: Path, frames: int, channels: int, length: int, shards: int) -> None:
    """Whatever the chunks and shards, zarr reads what was written, and the dry run counts its files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lading.compress.ephys.zarr_layout.SHARD_CHUNKS", shards)
        patch.setattr("lading.compress.ephys.zarr_layout.SMALLEST_CHUNK", 1)
        top = tmp_path
        samples = np.random.default_rng(frames).integers(-99, 99, (frames, channels)).astype("<i2")
        (top / "in").mkdir()
        samples.tofile(top / "in" / "data.bin")
        (top / "in" / "r.recording.yaml").write_text(
            f"files: data.bin\nchannels: {channels}\nsampling_frequency: 1000\nname: r\n"
        )
        flags = [str(top / "in"), str(top / "out"), "--kind", "ephys", "--zarr-format", "3", "--chunk-seconds"]
        options = command.read_settings([*flags, str(max(0.01, length / 1000))]).options
        job = CompressionJob(top / "in", str(top / "out"), "ephys", options)
        plan = ephys.plan(job)
        job = CompressionJob(top / "in", str(top / "out"), "ephys", options, plan.facts)
        for unit in plan.units:
            ephys.run(job, unit)
        ephys.finish(job, [])
        assert np.array_equal(group(top / "out", "r")["traces_seg0"][:], samples)
        made = sum(path.is_file() for path in (top / "out/ecephys_compressed").rglob("*"))
        (line,) = ephys.estimate(job)
        said = int(line.partition("about ")[2].split()[0])
        # Small arrays of nothing but zeros have no file.
        assert said - 3 <= made <= said


def test_index_is_that_of_zarr() -> None:
    """Byte for byte what zarr writes for the same chunks."""
    store: dict[str, Any] = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(store), shape=(7,), chunks=(2,), shards=(8,), dtype="u1", compressors=None
    )
    array[:] = np.arange(1, 8, dtype="u1")
    (data,) = [value.to_bytes() for key, value in store.items() if "zarr.json" not in key]
    assert data[8:] == encode_index([2, 2, 2, 2], 4)
    store = {}
    array = zarr.create_array(
        zarr.storage.MemoryStore(store), shape=(3,), chunks=(2,), shards=(8,), dtype="u1", compressors=None
    )
    array[:] = np.arange(1, 4, dtype="u1")
    (data,) = [value.to_bytes() for key, value in store.items() if "zarr.json" not in key]
    assert data[4:] == encode_index([2, 2], 4)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_bit_flipped_in_a_shard(share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a chunk, or in the index: found when it is read back, and the file is taken away."""
    job, unit = planned(tmp_path)
    write = AsyncFsyncWriter.write

    def spoil(writer: AsyncFsyncWriter, path: Path, blocks: Any) -> None:
        write(writer, path, blocks)
        flip(path, int(path.stat().st_size * share))

    monkeypatch.setattr(AsyncFsyncWriter, "write", spoil)
    with pytest.raises(VerificationFailed, match="does not read back as it was written"):
        ephys.run(job, unit)
    assert not [path for path in job.output.rglob("traces_seg0/c/**/*") if path.is_file()]


def test_a_source_that_changes_between_two_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, unit = planned(tmp_path)
    write = AsyncFsyncWriter.write

    def spoil(writer: AsyncFsyncWriter, path: Path, blocks: Any) -> None:
        write(writer, path, blocks)
        flip(job.source / "data.bin", 1234)

    monkeypatch.setattr(AsyncFsyncWriter, "write", spoil)
    with pytest.raises(VerificationFailed, match="the source changed between two readings of frames 150 to 160"):
        ephys.run(job, unit)


def planned(top: Path) -> Any:
    (top / "in").mkdir()
    make_samples(300, 4, 0, units=1).tofile(top / "in" / "data.bin")
    (top / "in" / "r.recording.yaml").write_text("files: data.bin\nchannels: 4\nsampling_frequency: 1000\nname: r\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lading.compress.ephys.zarr_layout.SMALLEST_CHUNK", 1)
        flags = [str(top / "in"), str(top / "out"), "--kind", "ephys", "--zarr-format", "3", "--chunk-seconds", "0.01"]
        options = command.read_settings(flags).options
        plan = ephys.plan(CompressionJob(top / "in", str(top / "out"), "ephys", options))
    unit = next(unit for unit in plan.units if unit.task["do"] == "traces")
    return CompressionJob(top / "in", str(top / "out"), "ephys", options, plan.facts), unit


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 4
    path.write_bytes(data)


def test_what_does_not_go_together(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    words = [str(tmp_path / "in"), str(tmp_path / "out"), "--kind", "ephys", "--codec", "wavpack"]
    with pytest.raises(UsageError, match="--zarr-format 3 has no wavpack"):
        command.main([*words, "--zarr-format", "3", "--workers", "1"])


def test_two_hours_in_the_estimate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The dry run of a recording of two hours says how many files it becomes: sparse, nothing is read of it."""
    (tmp_path / "in").mkdir()
    frames = 7200 * 30_000
    with open(tmp_path / "in" / "data.bin", "wb") as stream:
        stream.truncate(frames * 384 * 2)
    about = "files: data.bin\nchannels: 384\nsampling_frequency: 30000\nname: r\n"
    (tmp_path / "in" / "r.recording.yaml").write_text(about)
    words = [str(tmp_path / "in"), str(tmp_path / "out"), "--kind", "ephys", "--dry-run"]
    said = []
    for version in ("2", "3"):
        assert command.main([*words, "--zarr-format", version]) == 0
        said.append(capsys.readouterr().out.splitlines()[1])
    assert said == [
        "1 stream of at most 2 h 00 min: about 7,231 files in Zarr groups, a chunk each",
        "1 stream of at most 2 h 00 min: about 244 files in Zarr groups, a shard each",
    ]
    assert not (tmp_path / "out").exists()
    assert list(itertools.islice(tmp_path.glob("out*"), 1)) == []


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_images_in_the_estimate(ngff: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The dry run counts the files of an image, of which chunks of zeros are none."""
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", np.full((9, 70, 90), 7, "uint16"), photometric="minisblack")
    words = [str(tmp_path / "in"), str(tmp_path / "out"), "--kind", "imaging", "--levels", "3", "--ngff", ngff]
    words += ["--chunk", "4,16,32", "--shard", "8,32,64"]
    assert command.main([*words, "--dry-run"]) == 0
    (line,) = capsys.readouterr().out.splitlines()[1:]
    assert not (tmp_path / "out").exists()
    assert command.main([*words, "--workers", "1"]) == 0
    made = [path for path in (tmp_path / "out/a.ome.zarr").glob("*/**/*") if path.is_file()]
    assert f"1 image: at most about {len(made)} files" in line
