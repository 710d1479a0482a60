"""Ephys: every format against python-neo or its own arrays, every fault of a source in one sentence."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from lading.cli import compress as command
from lading.compress.async_writer import AsyncFsyncWriter
from lading.compress.ephys import ephys_plan as ephys
from lading.compress.ephys.codecs import CodecRefused, SampleCodec, make_codec
from lading.compress.ephys.correction import Correction
from lading.compress.ephys.transpose import same, transpose
from lading.compress.job import CompressionJob, SourceFault, VerificationFailed
from lading.core.errors import LadingError
from lading.testing.ephys_data import make_samples, write_openephys, write_spikeglx

AP = "Neuropix-PXI-100.ProbeA-AP"
DAQ = "NI-DAQmx-103.PXI-6133"


def compress(source: Path, destination: Path, *flags: str) -> dict[str, Any]:
    """Compress with one worker and return compress.json."""
    assert command.main([str(source), str(destination), "--kind", "ephys", "--workers", "1", *flags]) == 0
    return dict(json.loads((destination / "compress.json").read_text()))


def groups(destination: Path) -> dict[str, zarr.Group]:
    """Return the Zarr groups by name."""
    found = sorted((destination / "ecephys_compressed").glob("*.zarr"))
    return {path.name.removesuffix(".zarr"): zarr.open_consolidated(path, mode="r", zarr_format=2) for path in found}


def neo_signals(reader: Any) -> Iterator[tuple[str, int, int, np.ndarray, np.ndarray, float]]:
    """Yield (stream, block, segment, samples, channels, rate) of all that neo reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader.parse_header()
    for index, (name, identity) in enumerate(
        zip(reader.header["signal_streams"]["name"], reader.header["signal_streams"]["id"])
    ):
        channels = reader.header["signal_channels"]
        channels = channels[channels["stream_id"] == identity]
        for block in range(reader.block_count()):
            for segment in range(reader.segment_count(block)):
                samples = reader.get_analogsignal_chunk(block_index=block, seg_index=segment, stream_index=index)
                yield name, block, segment, samples, channels, reader.get_signal_sampling_rate(stream_index=index)


@pytest.fixture(scope="module")
def openephys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments; the first with two recordings of unequal length; probe, sync, NI-DAQ."""
    root = tmp_path_factory.mktemp("openephys") / "session"
    for experiment, recording, frames in ((1, 1, 3701), (1, 2, 1500), (2, 1, 900)):
        samples = make_samples(frames, 384, 10 * experiment + recording, step=12, offset=300, units=20)
        daq = make_samples(frames, 8, 99, units=3)
        write_openephys(root, {AP: samples, DAQ: daq}, experiment=experiment, recording=recording)
    return root


@pytest.fixture(scope="module")
def spikeglx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One gate with two triggers: AP, LF and NI-DAQ."""
    root = tmp_path_factory.mktemp("spikeglx") / "session"
    for trigger, frames in enumerate((3000, 1200)):
        write_spikeglx(root, make_samples(frames, 384, trigger, units=20), trigger=trigger)
    return root


def compare_with_neo(reader: Any, name: Callable[[str, int], str], found: dict[str, zarr.Group]) -> int:
    count = 0
    for stream, block, segment, samples, channels, rate in neo_signals(reader):
        group = found[name(stream, block)]
        assert np.array_equal(group[f"traces_seg{segment}"][:], samples), stream
        assert list(group["channel_ids"][:]) == list(channels["id"])
        assert group.attrs["sampling_frequency"] == rate
        scale = {"uV": 1.0, "V": 1e6}
        expected = [gain * scale[unit] for gain, unit in zip(channels["gain"], channels["units"])]
        assert np.allclose(group["properties/gain_to_uV"][:], expected, rtol=1e-12)
        count += 1
    return count


def test_openephys_equals_neo(openephys: Path, tmp_path: Path) -> None:
    neo = pytest.importorskip("neo.rawio")
    report = compress(openephys, tmp_path / "out", "--chunk-seconds", "0.05")
    found = groups(tmp_path / "out")
    reader = neo.OpenEphysBinaryRawIO(str(openephys))
    assert compare_with_neo(reader, lambda stream, block: f"experiment{block + 1}_{stream}", found) == 3 * 3
    neural = found[f"experiment1_Record Node 101#{AP}"]
    times = np.load(next(openephys.glob(f"*/experiment1/recording1/continuous/{AP}/timestamps.npy")))
    assert np.array_equal(neural["times_seg0"][:], times)
    assert len(neural.attrs["probegroup"]["probes"][0]["contact_positions"]) == 384
    assert report["source_checksum"] == report["decoded_checksum"]
    assert report["bytes_in"] > report["bytes_out"] > 0
    metadata = (".zarray", ".zattrs", ".zgroup", ".zmetadata")
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.name not in metadata]


def test_clipped_copy_opens_in_neo(openephys: Path, spikeglx: Path, tmp_path: Path) -> None:
    neo = pytest.importorskip("neo.rawio")
    for source, kind in ((openephys, neo.OpenEphysBinaryRawIO), (spikeglx, neo.SpikeGLXRawIO)):
        out = tmp_path / source.parent.name
        compress(source, out)
        whole = {key[:3]: key[3] for key in neo_signals(kind(str(source)))}
        clipped = {key[:3]: key[3] for key in neo_signals(kind(str(out / "ecephys_clipped")))}
        assert whole.keys() == clipped.keys()
        assert all(np.array_equal(clipped[key], whole[key][:100]) for key in whole)
        for path in source.rglob("*"):
            if path.is_file() and path.suffix not in (".dat", ".bin"):
                assert (out / "ecephys_clipped" / path.relative_to(source)).read_bytes() == path.read_bytes()


def test_spikeglx_equals_neo(spikeglx: Path, tmp_path: Path) -> None:
    neo = pytest.importorskip("neo.rawio")
    compress(spikeglx, tmp_path / "out", "--no-clip")
    found = groups(tmp_path / "out")
    assert compare_with_neo(neo.SpikeGLXRawIO(str(spikeglx)), lambda stream, _: f"run_g0_{stream}", found) == 5 * 2


def plain(directory: Path, samples: np.ndarray, **fields: Any) -> Path:
    """Write samples with their YAML; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    samples.tofile(directory / "data.bin")
    record = {"files": "data.bin", "channels": samples.shape[1], "sampling_frequency": 1000, **fields}
    (directory / "r.recording.yaml").write_text(json.dumps(record))
    return directory


@pytest.mark.parametrize("codec", ["pcodec", "wavpack", "blosc-zstd"])
def test_every_codec_keeps_every_bit(codec: str, tmp_path: Path) -> None:
    if codec == "wavpack":
        pytest.importorskip("wavpack_numcodecs")
    samples = make_samples(2345, 16, 5, units=4)
    source = plain(tmp_path / "in", samples, gain_uV=0.5, channel_ids=[f"c{n}" for n in range(16)])
    report = compress(source, tmp_path / "out", "--codec", codec)
    group = groups(tmp_path / "out")["r"]
    assert np.array_equal(group["traces_seg0"][:], samples)
    assert list(group["channel_ids"][:]) == [f"c{n}" for n in range(16)]
    assert report["facts"]["streams"][0]["codec"] == codec


def test_floats_keep_nan_and_zero_signs(tmp_path: Path) -> None:
    samples = np.random.default_rng(0).normal(size=(500, 4)).astype("<f4")
    samples[3, 1], samples[4, 2], samples[5, 0] = np.nan, -0.0, np.inf
    source = plain(tmp_path / "in", samples, dtype="float32")
    compress(source, tmp_path / "out")
    assert groups(tmp_path / "out")["r"]["traces_seg0"][:].tobytes() == samples.tobytes()


def test_a_codec_that_refuses_gives_way(tmp_path: Path) -> None:
    pytest.importorskip("wavpack_numcodecs")
    samples = np.random.default_rng(0).normal(size=(500, 4))
    source = plain(tmp_path / "in", samples, dtype="float64")
    report = compress(source, tmp_path / "out", "--codec", "wavpack")
    assert report["facts"]["streams"][0]["codec"] == "blosc-zstd"
    assert "wavpack does not support" in report["facts"]["streams"][0]["notes"][0]
    assert groups(tmp_path / "out")["r"]["traces_seg0"][:].tobytes() == samples.tobytes()


def test_a_chunk_refused_halfway_changes_the_array(tmp_path: Path) -> None:
    pytest.importorskip("wavpack_numcodecs")
    samples = make_samples(3000, 512, 1, units=4)
    # WavPack cannot hold noise: not the chunk that is tried beforehand, but the first one.
    samples[:1000] = np.random.default_rng(0).integers(-(2**15), 2**15, (1000, 512))
    source = plain(tmp_path / "in", samples)
    report = compress(source, tmp_path / "out", "--codec", "wavpack", "--chunk-seconds", "1")
    stream = report["facts"]["streams"][0]
    assert np.array_equal(groups(tmp_path / "out")["r"]["traces_seg0"][:], samples)
    assert stream["codec"] == "blosc-zstd"
    assert stream["notes"] == ["codec could not store some samples exactly; they are stored without it"]
    failed = [path.read_text() for path in (tmp_path / "out.state" / "log").glob("*.jsonl")]
    assert any("cannot encode a chunk" in text for text in failed)


def test_lossy_only_when_asked_and_recorded(tmp_path: Path) -> None:
    pytest.importorskip("wavpack_numcodecs")
    source = plain(tmp_path / "in", make_samples(2000, 8, 1, units=4))
    with pytest.raises(LadingError, match="--codec wavpack"):
        compress(source, tmp_path / "no", "--bits-per-sample", "2.25")
    report = compress(source, tmp_path / "out", "--codec", "wavpack", "--bits-per-sample", "2.25")
    assert report["facts"]["streams"][0]["lossless"] is False
    assert report["source_checksum"] != report["decoded_checksum"]


def test_empty_and_one_sample_streams(tmp_path: Path) -> None:
    root = tmp_path / "session"
    write_openephys(root, {AP: make_samples(0, 8, 1, units=1)}, recording=1, probe=False)
    write_openephys(root, {AP: make_samples(1, 8, 1, units=1)}, recording=2, probe=False)
    compress(root, tmp_path / "out")
    group = groups(tmp_path / "out")[f"experiment1_Record Node 101#{AP}"]
    assert group["traces_seg0"].shape == (0, 8)
    assert np.array_equal(group["traces_seg1"][:], make_samples(1, 8, 1, units=1))


def test_gaps_and_missing_synchronisation_are_said(tmp_path: Path) -> None:
    root = tmp_path / "session"
    directory = write_openephys(root, {AP: make_samples(500, 8, 1, units=1)}, synchronised=False, probe=False)
    counts = directory / "continuous" / AP / "sample_numbers.npy"
    numbers = np.load(counts)
    numbers[200:] += 30
    np.save(counts, numbers)
    report = compress(root, tmp_path / "out")
    stream = report["facts"]["streams"][0]
    assert stream["gaps"] == {"0": [[200, 30]]}
    assert any("not synchronised" in note for note in stream["notes"])
    group = groups(tmp_path / "out")[f"experiment1_Record Node 101#{AP}"]
    assert "times_seg0" not in group
    assert group["t_starts"][0] == 3.0


def test_correction_is_exact_and_reversible(openephys: Path, tmp_path: Path) -> None:
    report = compress(openephys, tmp_path / "out", "--correct", "--no-clip")
    path = next(openephys.glob(f"*/experiment1/recording1/continuous/{AP}/continuous.dat"))
    raw = np.fromfile(path, "<i2").reshape(-1, 385)[:, :384]
    group = groups(tmp_path / "out")[f"experiment1_Record Node 101#{AP}"]
    fixed = group.attrs["lading"]["correction"]
    assert fixed["step"] == 12
    stored = group["traces_seg0"][:]
    assert np.array_equal(stored.astype(int) * fixed["step"] + np.array(fixed["medians"]), raw)
    volts = stored * group["properties/gain_to_uV"][:] + group["properties/offset_to_uV"][:]
    assert np.allclose(volts, raw * 0.195)
    untouched = [s for s in report["facts"]["streams"] if s["content"] != "neural"]
    assert untouched
    assert all(stream["correction"] is None for stream in untouched)


def test_correction_refuses_what_is_off_the_grid() -> None:
    correction = Correction(12, (3, 4))
    with pytest.raises(CodecRefused, match="channel 1"):
        correction.apply(np.array([[15, 5]], "<i2"))


def test_nwb_series(tmp_path: Path) -> None:
    samples = make_samples(700, 6, 2, units=2)
    with h5py.File(tmp_path / "s.nwb", "w") as file:
        series = file.create_group("acquisition/ElectricalSeriesAP")
        series.attrs["neurodata_type"] = "ElectricalSeries"
        data = series.create_dataset("data", data=samples, chunks=(128, 6), compression="gzip")
        data.attrs["conversion"] = 1e-6
        start = series.create_dataset("starting_time", data=1.5)
        start.attrs["rate"] = 1000.0
        table = file.create_group("general/extracellular_ephys/electrodes")
        table["id"] = np.arange(6)
        region = series.create_dataset("electrodes", data=np.arange(6))
        region.attrs["table"] = table.ref
        file["linked"] = h5py.SoftLink("/acquisition/ElectricalSeriesAP")
        file["notes"] = "text"
    compress(tmp_path / "s.nwb", tmp_path / "out")
    with h5py.File(tmp_path / "out/ecephys_clipped/s.nwb") as clipped:
        series = clipped["linked"]
        assert np.array_equal(series["data"][:], samples[:100])
        assert series["data"].attrs["conversion"] == 1e-6
        assert clipped[series["electrodes"].attrs["table"]].name == "/general/extracellular_ephys/electrodes"
        assert clipped["notes"][()] == b"text"
    group = groups(tmp_path / "out")["s_ElectricalSeriesAP"]
    assert np.array_equal(group["traces_seg0"][:], samples)
    assert group["t_starts"][0] == 1.5
    assert np.allclose(group["properties/gain_to_uV"][:], 1.0)


# Faults of a source: (how it is spoilt, what the sentence must name).


def truncate_data(root: Path) -> str:
    path = next(root.rglob(f"{AP}/continuous.dat"))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 7)
    return r"continuous\.dat: 763 bytes beyond .* at offset \d+"


def drop_frames(root: Path) -> str:
    path = next(root.rglob(f"{AP}/continuous.dat"))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 2 * 385 * 3)
    return r"holds [\d,]+ frames \(ends at offset \d+\) but .*sample_numbers\.npy has"


def remove_data(root: Path) -> str:
    next(root.rglob(f"{DAQ}/continuous.dat")).unlink()
    return r"continuous\.dat is missing, although .*structure\.oebin lists it"


def break_structure(root: Path) -> str:
    next(root.rglob("structure.oebin")).write_text("{")
    return r"structure\.oebin: not a description of a recording"


def miscount_channels(root: Path) -> str:
    path = next(root.rglob("structure.oebin"))
    path.write_text(path.read_text().replace('"num_channels": 385', '"num_channels": 384'))
    return r"says num_channels 384 and lists 385"


def change_gain(root: Path) -> str:
    path = next(root.rglob("experiment1/recording2/structure.oebin"))
    path.write_text(path.read_text().replace("0.195", "0.2"))
    return r"channels or sampling rate differ"


@pytest.mark.parametrize(
    "spoil", [truncate_data, drop_frames, remove_data, break_structure, miscount_channels, change_gain]
)
def test_spoilt_openephys(spoil: Callable[[Path], str], openephys: Path, tmp_path: Path) -> None:
    root = tmp_path / "session"
    shutil.copytree(openephys, root)
    expected = spoil(root)
    with pytest.raises(LadingError, match=expected):
        command.main([str(root), str(tmp_path / "out"), "--kind", "ephys"])
    assert not (tmp_path / "out" / "compress.json").exists()
    assert not list((tmp_path / "out").rglob("traces*"))


def test_all_faults_at_once(openephys: Path, tmp_path: Path) -> None:
    root = tmp_path / "session"
    shutil.copytree(openephys, root)
    truncate_data(root)
    remove_data(root)
    with pytest.raises(LadingError) as caught:
        command.main([str(root), str(tmp_path / "out"), "--kind", "ephys"])
    assert len(str(caught.value).split("\n")) == 2


def test_spikeglx_size_against_metadata(spikeglx: Path, tmp_path: Path) -> None:
    root = tmp_path / "session"
    shutil.copytree(spikeglx, root)
    path = next(root.rglob("*.ap.bin"))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 385 * 2)
    with pytest.raises(LadingError, match=r"ap\.bin ends at offset \d+ but .*fileSizeBytes=\d+"):
        command.main([str(root), str(tmp_path / "out"), "--kind", "ephys"])
    compress(root, tmp_path / "out2", "--accept-sizes")


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"channels": 0}, "do not fit together"),
        ({"channels": 5}, r"beyond the last whole frame of 5 channels"),
        ({"dtype": "complex64"}, "is not one of"),
        ({"sampling_frequency": -1}, "do not fit together"),
        ({"gain": 2}, "unknown field 'gain'"),
        ({"files": "absent.bin"}, "absent.bin is missing"),
        ({"gain_uV": [1, 2]}, "lists of 2 gains"),
        ({"channels": "many"}, "wrong kind of value"),
    ],
)
def test_spoilt_yaml(fields: dict[str, Any], expected: str, tmp_path: Path) -> None:
    source = plain(tmp_path / "in", make_samples(101, 4, 0, units=1), **fields)
    with pytest.raises(LadingError, match=expected):
        command.main([str(source), str(tmp_path / "out"), "--kind", "ephys"])


def test_nothing_there(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(LadingError, match=r"no structure\.oebin"):
        command.main([str(tmp_path / "in"), str(tmp_path / "out"), "--kind", "ephys"])


# Flipped bits.


@pytest.fixture
def planned(tmp_path: Path) -> tuple[CompressionJob, Any]:
    """A planned job of one unit."""
    source = plain(tmp_path / "in", make_samples(300, 4, 0, units=1))
    settings = command.read_settings([str(source), str(tmp_path / "out"), "--kind", "ephys", "--no-clip"])
    job = CompressionJob(source, settings.destination, "ephys", settings.options)
    plan = ephys.plan(job)
    return CompressionJob(source, settings.destination, "ephys", settings.options, plan.facts), plan.units[0]


def flip(path: Path, position: int) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 4]))


def test_a_bit_flipped_in_the_source_after_reading(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job, unit = planned
    write = AsyncFsyncWriter.write

    def spoil(writer: AsyncFsyncWriter, path: Path, blocks: list[bytes]) -> None:
        write(writer, path, blocks)
        flip(job.source / "data.bin", 1234)

    monkeypatch.setattr(AsyncFsyncWriter, "write", spoil)
    with pytest.raises(VerificationFailed, match="changed between two readings of frames 0 to 300"):
        ephys.run(job, unit)
    assert not list(job.output.rglob("traces_seg0/0.0"))


@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_bit_flipped_in_an_output_chunk(share: float, planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    job, unit = planned
    write = AsyncFsyncWriter.write

    def spoil(writer: AsyncFsyncWriter, path: Path, blocks: list[bytes]) -> None:
        write(writer, path, blocks)
        flip(path, int(path.stat().st_size * share))

    monkeypatch.setattr(AsyncFsyncWriter, "write", spoil)
    with pytest.raises(VerificationFailed):
        ephys.run(job, unit)
    assert not list(job.output.rglob("traces_seg0/0.0"))


@pytest.mark.parametrize("codec", ["pcodec", "blosc-zstd"])
@pytest.mark.parametrize(("broken", "expected"), [("decode", "gives other samples"), ("encode_arranged", "or memory")])
def test_a_bit_flipped_in_memory(
    codec: str, broken: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = plain(tmp_path / "in", make_samples(300, 4, 0, units=1))
    flags = [str(source), str(tmp_path / "out"), "--kind", "ephys", "--no-clip", "--codec", codec]
    job = CompressionJob(source, str(tmp_path / "out"), "ephys", command.read_settings(flags).options)
    plan = ephys.plan(job)
    sound = getattr(SampleCodec, broken)

    def decode(codec: SampleCodec, *arguments: Any) -> np.ndarray:
        decoded = sound(codec, *arguments)
        decoded[299, 3] ^= 1
        return decoded

    def encode_arranged(codec: SampleCodec, arranged: np.ndarray) -> bytes:
        arranged[-1, -1] ^= 1
        return sound(codec, arranged)

    monkeypatch.setattr(SampleCodec, broken, decode if broken == "decode" else encode_arranged)
    with pytest.raises(VerificationFailed, match=expected):
        ephys.run(CompressionJob(source, str(tmp_path / "out"), "ephys", job.options, plan.facts), plan.units[0])
    assert not list((tmp_path / "out").rglob("traces_seg0/0.0"))


def test_a_bit_flipped_later_is_found_by_recheck(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = make_samples(300, 4, 0, units=1)
    source = plain(tmp_path / "in", samples)
    compress(source, tmp_path / "out")
    chunk = next((tmp_path / "out").rglob("traces_seg0/0.0"))
    flip(chunk, 200)
    compress(source, tmp_path / "out", "--recheck")
    assert "1 finished unit has lost or changed files" in capsys.readouterr().err
    assert np.array_equal(groups(tmp_path / "out")["r"]["traces_seg0"][:], samples)


def test_a_source_that_shrinks_is_said(planned: Any) -> None:
    job, unit = planned
    with (job.source / "data.bin").open("r+b") as file:
        file.truncate(500)
    with pytest.raises(SourceFault, match="ends at offset 500"):
        ephys.run(job, unit)


# Properties of the codecs.

SAMPLES = arrays.arrays(
    st.sampled_from(["<i2", "<u2", "<i4", "<f4", "<f8"]),
    st.tuples(st.integers(1, 90), st.integers(1, 7)),
)


@settings(max_examples=150, deadline=None)
@given(SAMPLES, st.sampled_from(["pcodec", "blosc-zstd"]))
def test_codecs_give_back_what_they_took(samples: np.ndarray, name: str) -> None:
    codec = make_codec(name, samples.dtype, {})
    assert same(codec.decode(codec.encode(samples), samples.shape, samples.dtype), samples)
    turned = np.empty(samples.shape[::-1], samples.dtype)
    transpose(samples, turned)
    assert np.array_equal(turned.view("u1"), np.ascontiguousarray(samples.T).view("u1"))


@settings(max_examples=100, deadline=None)
@given(SAMPLES, st.data())
def test_same_sees_every_bit(samples: np.ndarray, data: st.DataObject) -> None:
    other = samples.copy()
    raw = other.view("u1").reshape(-1)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert not same(other, samples)
    assert same(samples.copy(order="F"), samples)


@pytest.mark.parametrize("name", ["pcodec", "blosc-zstd"])
def test_a_chunk_of_fewer_samples_does_not_pass_for_the_memory_before(name: str) -> None:
    samples = np.full((300, 4), 7, "<i2")
    codec = make_codec(name, samples.dtype, {})
    whole, short = codec.encode(samples), codec.encode(samples[:200])
    assert same(codec.decode(whole, samples.shape, samples.dtype), samples)
    with pytest.raises(ValueError, match="does not hold the 1200 samples"):
        codec.decode(short, samples.shape, samples.dtype)
