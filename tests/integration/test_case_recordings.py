"""Recordings as labs really have them: copies beside sessions, crashes, deleted streams, odd settings and times."""

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import neo.rawio
import numpy as np
import probeinterface
import pytest
import zarr

from lading.cli import compress as command
from lading.compress import launcher
from lading.core.errors import LadingError
from lading.testing.ephys_data import make_samples, write_openephys, write_spikeglx

AP, LFP = "Neuropix-PXI-100.ProbeA-AP", "Neuropix-PXI-100.ProbeA-LFP"
SAMPLES = make_samples(900, 8, 0, units=3)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers are functions of this process: a child of its own loads the libraries once more for each test."""
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))


def compress(source: Path, out: Path, *flags: str) -> dict[str, Any]:
    """Compress with one worker; return compress.json. The outputs of an earlier call go."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(out.with_name(f"{out.name}.state"), ignore_errors=True)
    assert command.main([str(source), str(out), "--kind", "ephys", "--workers", "1", *flags]) == 0
    return dict(json.loads((out / "compress.json").read_text()))


def refused(source: Path, out: Path, *flags: str) -> str:
    with pytest.raises(LadingError) as caught:
        compress(source, out, *flags)
    assert not (out / "compress.json").exists()
    assert not list(out.rglob("traces*"))
    return str(caught.value)


def group(out: Path, name: str) -> zarr.Group:
    return zarr.open_group(out / "ecephys_compressed" / f"{name}.zarr", mode="r", zarr_format=2)


def names(report: dict[str, Any]) -> list[str]:
    return sorted(stream["name"] for stream in report["facts"]["streams"])


def notes(report: dict[str, Any], name: str) -> str:
    (found,) = [stream["notes"] for stream in report["facts"]["streams"] if stream["name"] == name]
    return "; ".join(found)


def test_two_sessions_never_become_one_recording(tmp_path: Path) -> None:
    top = tmp_path / "in"
    second = make_samples(600, 8, 5, units=3)
    for day, samples in (("2024-05-27", SAMPLES), ("2024-05-28", second)):
        write_openephys(top / day, {AP: samples})
    message = refused(top, tmp_path / "out")
    assert f"in {top}/2024-05-27 and in {top}/2024-05-28: two sessions, or a session and its copy" in message
    assert "--each" in message
    report = compress(top, tmp_path / "out", "--each")
    assert len(names(report)) == 4, "samples and sync word of each"
    for day, samples in (("2024-05-27", SAMPLES), ("2024-05-28", second)):
        found = group(tmp_path / "out", f"{day}_experiment1_Record Node 101#{AP}")
        assert np.array_equal(found["traces_seg0"][:], samples)
        assert "traces_seg1" not in found


def test_a_copy_of_a_recording_is_no_second_segment(tmp_path: Path) -> None:
    directory = write_openephys(tmp_path / "in", {AP: SAMPLES})
    shutil.copytree(directory, directory.with_name("recording1 (copy)"))
    assert "cannot be told from" in refused(tmp_path / "in", tmp_path / "out")
    # Names are kept where only one is there.
    shutil.rmtree(directory)
    compress(tmp_path / "in", tmp_path / "out")


def test_a_copied_run_and_the_output_of_catgt(tmp_path: Path) -> None:
    top = tmp_path / "in"
    samples = make_samples(900, 384, 0, units=3)
    write_spikeglx(top, samples)
    shutil.copytree(top / "run_g0", tmp_path / "in" / "backup" / "run_g0")
    message = refused(top, tmp_path / "out")
    assert "imec0.ap of run_g0 is there more than once" in message
    assert f"in {top}/run_g0/run_g0_imec0 and in {top}/backup/run_g0" in message or "backup" in message
    shutil.rmtree(top / "backup")
    # CatGT writes the triggers once more, filtered, beside them.
    probe = top / "run_g0" / "run_g0_imec0"
    for suffix in ("bin", "meta"):
        shutil.copy(probe / f"run_g0_t0.imec0.ap.{suffix}", probe / f"run_g0_tcat.imec0.ap.{suffix}")
    (samples // 2).astype("<i2")
    assert "(tcat)" in refused(top, tmp_path / "out")
    report = compress(top, tmp_path / "out", "--each")
    assert sum("tcat" in name for name in names(report)) == 2
    assert all(len(stream["frames"]) == 1 for stream in report["facts"]["streams"])


def edit_meta(path: Path, **values: str) -> None:
    lines = path.read_text().splitlines()
    kept = [line for line in lines if line.split("=")[0].lstrip("~") not in values]
    path.write_text("\n".join([*kept, *(f"{key}={value}" for key, value in values.items())]) + "\n")


def test_gains_are_each_channels_own(tmp_path: Path) -> None:
    """Newer metadata have imChan0apGain as well: that of the first channel, and of no other."""
    write_spikeglx(tmp_path / "in", make_samples(900, 384, 0, units=3))
    (path,) = (tmp_path / "in").rglob("*.ap.meta")
    entries = "".join(f"({n} 0 0 {500 if n < 192 else 1000} 250 1)" for n in range(384))
    text = path.read_text()
    head = text[text.index("~imroTbl=") :].split(")")[0].split("=", 1)[1] + ")"
    edit_meta(path, imChan0apGain="500", imChan0lfGain="250")
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("~imroTbl")) + "\n")
    with path.open("a") as stream:
        stream.write(f"~imroTbl={head}{entries}\n")
    compress(tmp_path / "in", tmp_path / "out")
    gains = group(tmp_path / "out", "run_g0_imec0.ap")["properties/gain_to_uV"][:]
    assert np.allclose(gains, [2.34375] * 192 + [1.171875] * 192)
    reader = neo.rawio.SpikeGLXRawIO(str(tmp_path / "in"))
    reader.parse_header()
    channels = reader.header["signal_channels"]
    assert np.allclose(gains, channels[channels["stream_id"] == "imec0.ap"]["gain"])


def test_the_probe_of_the_lf_band_is_that_of_the_ap_band(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_spikeglx(tmp_path / "in", make_samples(900, 384, 0, units=3))
    read = probeinterface.read_spikeglx

    def only_ap(path: Path) -> Any:
        if ".lf." in str(path):
            raise IndexError("no map")
        return read(path)

    monkeypatch.setattr(probeinterface, "read_spikeglx", only_ap)
    report = compress(tmp_path / "in", tmp_path / "out")
    ap, lf = (group(tmp_path / "out", f"run_g0_imec0.{band}").attrs["probegroup"] for band in ("ap", "lf"))
    assert ap == lf
    assert notes(report, "run_g0_imec0.lf") == ""
    monkeypatch.setattr(probeinterface, "read_spikeglx", lambda path: read(tmp_path / "none"))
    report = compress(tmp_path / "in", tmp_path / "out")
    for band in ("ap", "lf"):
        assert f".{band}.meta is not recorded: AssertionError" in notes(report, f"run_g0_imec0.{band}")


@pytest.mark.parametrize("kind", [Exception, AttributeError, IndexError, "cut"])
def test_settings_that_no_library_reads_leave_the_samples(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_openephys(tmp_path / "in", {AP: SAMPLES})
    (settings,) = (tmp_path / "in").rglob("settings.xml")
    if kind == "cut":
        settings.write_text(settings.read_text()[:300])
    else:

        def refuse(*_: Any, **__: Any) -> Any:
            raise kind("an IMU stream")

        monkeypatch.setattr(probeinterface, "read_openephys_neuropixels", refuse)
    report = compress(tmp_path / "in", tmp_path / "out")
    name = f"experiment1_Record Node 101#{AP}"
    assert np.array_equal(group(tmp_path / "out", name)["traces_seg0"][:], SAMPLES)
    assert "the probe of settings.xml is not recorded: " in notes(report, name)


@pytest.mark.parametrize("name", ["timestamps.npy", "sample_numbers.npy"])
@pytest.mark.parametrize("keep", [0, 40, 3000])
def test_clocks_that_a_crash_cut_short(name: str, keep: int, tmp_path: Path) -> None:
    directory = write_openephys(tmp_path / "in", {AP: SAMPLES})
    path = directory / "continuous" / AP / name
    path.write_bytes(path.read_bytes()[:keep])
    message = refused(tmp_path / "in", tmp_path / "out")
    assert f"{path}: cannot be read as a NumPy array" in message
    assert "--accept-sizes" in message
    report = compress(tmp_path / "in", tmp_path / "out", "--accept-sizes")
    stream = f"experiment1_Record Node 101#{AP}"
    assert np.array_equal(group(tmp_path / "out", stream)["traces_seg0"][:], SAMPLES)
    assert f"{name} cannot be read" in notes(report, stream)
    (copy,) = (tmp_path / "out" / "ecephys_clipped").rglob(f"{AP}/{name}")
    assert copy.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("extra", [4, 6])
def test_a_ragged_tail_is_accepted_and_named(extra: int, tmp_path: Path) -> None:
    directory = write_openephys(tmp_path / "in" / "oe", {AP: SAMPLES})
    write_spikeglx(tmp_path / "in" / "glx", make_samples(900, 384, 0, units=3))
    (binary,) = (tmp_path / "in" / "glx").rglob("*.ap.bin")
    for path, source in (
        (directory / "continuous" / AP / "continuous.dat", tmp_path / "in" / "oe"),
        (binary, tmp_path / "in" / "glx"),
    ):
        with path.open("ab") as stream:
            stream.write(b"\1" * extra)
        assert "--accept-sizes" in refused(source, tmp_path / "out")
        report = compress(source, tmp_path / "out", "--accept-sizes")
        (item,) = report["left_out"]
        assert item["item"] == f"{path.relative_to(source)}: the {extra} bytes after the last whole frame"


def test_a_stream_that_was_deleted_on_purpose(tmp_path: Path) -> None:
    top = tmp_path / "in"
    directory = write_openephys(top, {AP: SAMPLES, LFP: SAMPLES[::12]})
    (directory / "continuous" / LFP / "continuous.dat").unlink()
    assert "--accept-missing" in refused(top, tmp_path / "out")
    report = compress(top, tmp_path / "out", "--accept-missing")
    assert all(LFP not in name for name in names(report))
    assert [item["reason"] for item in report["left_out"]] == ["its continuous.dat is missing"]


def test_metadata_without_samples_beside_spikeglx(tmp_path: Path) -> None:
    top = tmp_path / "in"
    write_spikeglx(top, make_samples(900, 384, 0, units=3))
    (top / "camera.meta").write_text("fps=30\nexposure=4\n")
    compress(top, tmp_path / "out")
    assert (tmp_path / "out" / "ecephys_clipped" / "camera.meta").read_text() == "fps=30\nexposure=4\n"
    (binary,) = top.rglob("*.lf.bin")
    binary.unlink()
    assert f"{binary} is missing" in refused(top, tmp_path / "out")
    report = compress(top, tmp_path / "out", "--accept-missing")
    assert [item["item"].rpartition("/")[2] for item in report["left_out"]] == [
        "run_g0_t0.imec0.lf.meta: run_g0_t0.imec0.lf.bin"
    ]
    binary.with_suffix(".cbin").write_bytes(b"packed")
    assert "is packed by mtscomp, and its .ch is missing" in refused(top, tmp_path / "out")


def test_without_a_clipped_copy_what_is_not_carried_is_named(tmp_path: Path) -> None:
    write_openephys(tmp_path / "in", {AP: SAMPLES})
    report = compress(tmp_path / "in", tmp_path / "out", "--no-clip")
    files = {str(path.relative_to(tmp_path / "in")) for path in (tmp_path / "in").rglob("*") if path.is_file()}
    assert {item["item"] for item in report["left_out"]} == {f for f in files if not f.endswith("continuous.dat")}
    assert report["unaccounted"] == []


def add_series(file: h5py.File, path: str, data: np.ndarray[Any, Any], **more: Any) -> h5py.Group:
    """Write an ElectricalSeries; ``timestamps``, ``rate`` and ``start`` are its clock."""
    series = file.create_group(path)
    series.attrs["neurodata_type"] = "ElectricalSeries"
    series["data"] = data
    series["data"].attrs["conversion"] = 1e-6
    if "timestamps" in more:
        series["timestamps"] = more["timestamps"]
    else:
        series["starting_time"] = more.get("start", 1.5)
        if "rate" in more:
            series["starting_time"].attrs["rate"] = more["rate"]
    return series


def test_the_rate_of_timestamps_is_that_of_their_median_step(tmp_path: Path) -> None:
    times = np.arange(900) / 30_000
    with h5py.File(tmp_path / "s.nwb", "w") as file:
        add_series(file, "acquisition/gap", SAMPLES, timestamps=np.where(np.arange(900) < 500, times, times + 5))
        add_series(file, "acquisition/nan", SAMPLES, timestamps=np.where(np.arange(900) == 899, np.nan, times))
        add_series(file, "acquisition/back", SAMPLES, timestamps=np.where(np.arange(900) < 700, times, times - 0.01))
    report = compress(tmp_path / "s.nwb", tmp_path / "out")
    for name in ("gap", "nan", "back"):
        found = group(tmp_path / "out", f"s_{name}")
        with h5py.File(tmp_path / "s.nwb") as file:
            stamps = file[f"acquisition/{name}/timestamps"][:]
        # As SpikeInterface has it.
        assert found.attrs["sampling_frequency"] == 1 / np.nanmedian(np.diff(stamps))
        assert np.allclose(found.attrs["sampling_frequency"], 30_000)
        assert ("times_seg0" in found) == (name == "gap")
    assert "1 gap in its timestamps, the first of 5.00003 s before frame 500" in notes(report, "s_gap")
    assert "1 are not numbers" in notes(report, "s_nan")
    assert "1 do not rise" in notes(report, "s_back")
    with h5py.File(tmp_path / "out/ecephys_clipped/s.nwb") as clipped:
        assert np.array_equal(clipped["acquisition/nan/timestamps"][:], np.r_[times[:899], np.nan], equal_nan=True)


def test_one_series_that_makes_no_sense_stops_no_other(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.nwb", "w") as file:
        add_series(file, "acquisition/good", SAMPLES, rate=30_000.0)
        add_series(file, "acquisition/empty", SAMPLES[:0], rate=30_000.0)
        add_series(file, "acquisition/rateless", SAMPLES)
        add_series(file, "acquisition/nan", SAMPLES, rate=np.nan)
        add_series(file, "acquisition/early", SAMPLES, rate=30_000.0, start=np.nan)
    report = compress(tmp_path / "s.nwb", tmp_path / "out")
    assert names(report) == ["s_early", "s_good"]
    said = "\n".join(report["facts"]["notes"])
    for reason in ("/empty: holds no sample", "/rateless/starting_time has no rate", "/nan: the sampling rate is nan"):
        assert reason in said
    with h5py.File(tmp_path / "out/ecephys_clipped/s.nwb") as clipped:
        assert np.array_equal(clipped["acquisition/rateless/data"][:], SAMPLES)
    message = refused(tmp_path / "s.nwb", tmp_path / "out", "--no-clip")
    assert len(message.splitlines()) == 3


def test_series_of_one_name_and_records_with_references(tmp_path: Path) -> None:
    """pynwb's own tutorial writes both: ElectricalSeries in acquisition and in LFP, TimeSeriesReference in epochs."""
    record = np.dtype([("idx_start", "i4"), ("count", "i4"), ("timeseries", h5py.ref_dtype)])
    with h5py.File(tmp_path / "s.nwb", "w") as file:
        raw = add_series(file, "acquisition/ElectricalSeries", SAMPLES, rate=30_000.0)
        add_series(file, "processing/ecephys/LFP/ElectricalSeries", SAMPLES[::12].astype(">i2"), rate=2500.0)
        rows = np.array([(0, 5, raw.ref), (5, 7, file["processing"].ref)], dtype=record)
        file.create_dataset("intervals/epochs/timeseries", data=rows, maxshape=(None,), chunks=(1,))
        file["intervals"].attrs.create("first", rows[0], dtype=record)
    report = compress(tmp_path / "s.nwb", tmp_path / "out")
    assert names(report) == ["s_acquisition_ElectricalSeries", "s_processing_ecephys_LFP_ElectricalSeries"]
    low = group(tmp_path / "out", "s_processing_ecephys_LFP_ElectricalSeries")
    assert np.array_equal(low["traces_seg0"][:], SAMPLES[::12])
    with h5py.File(tmp_path / "out/ecephys_clipped/s.nwb") as clipped:
        found = clipped["intervals/epochs/timeseries"][:]
        assert [clipped[one].name for one in found["timeseries"]] == ["/acquisition/ElectricalSeries", "/processing"]
        assert found["count"].tolist() == [5, 7]
        assert clipped[clipped["intervals"].attrs["first"]["timeseries"]].name == "/acquisition/ElectricalSeries"
        assert clipped["intervals/epochs/timeseries"].maxshape == (None,)


def test_what_the_clipped_copy_cannot_hold_is_told_before_any_sample(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "s.nwb", "w") as file:
        series = add_series(file, "acquisition/ES", SAMPLES, rate=30_000.0)
        regions = file.create_dataset("region", (1,), dtype=h5py.regionref_dtype)
        regions[0] = series["data"].regionref[:10]
    assert "/region holds references to regions" in refused(tmp_path / "s.nwb", tmp_path / "out")
    report = compress(tmp_path / "s.nwb", tmp_path / "out", "--no-clip")
    assert [item["item"] for item in report["left_out"]] == ["s.nwb: all but its samples"]


def test_files_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for day in ("monday", "tuesday"):
        (tmp_path / "in" / day).mkdir(parents=True)
        with h5py.File(tmp_path / "in" / day / "s.nwb", "w") as file:
            add_series(file, "acquisition/ES", SAMPLES + len(day), rate=30_000.0)
    assert "--each" in refused(tmp_path / "in", tmp_path / "out")
    report = compress(tmp_path / "in", tmp_path / "out", "--each")
    assert names(report) == ["monday_s_ES", "tuesday_s_ES"]
