"""Recordings of other systems through python-neo: what neo reads is in the output, and every file is carried."""

import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from lading.cli import compress as command
from lading.cli import prove
from lading.compress import launcher
from lading.compress.ephys.neo_bridge import READERS, find_recordings
from lading.compress.ephys.neo_reader import open_neo
from lading.core.errors import LadingError, UsageError
from lading.core.progress import counted
from tests import neo_files
from tests.conftest import REPOSITORY
from tests.kinds import tree_bytes

SCALE = {"uV": 1.0, "µV": 1.0, "mV": 1e3, "V": 1e6}
# Of these the samples lie in a file as they are, to its end: the clipped copy need not have them twice.
CUT = {"brainvision": "a.eeg", "neuroscope": "a.dat", "mcsraw": "a.raw", "neuronexus": "a_data.xdat"}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))


def compress(source: Path, out: Path, *flags: str) -> dict[str, Any]:
    assert command.main([str(source), str(out), "--kind", "ephys", "--workers", "1", *flags]) == 0
    return dict(json.loads((out / "compress.json").read_text()))


def compare(source: Path, out: Path) -> int:
    """Compare every stream with neo's own reading; returns how many there are."""
    count = 0
    groups = {path.name: path for path in (out / "ecephys_compressed").glob("*.zarr")}
    for reader, given in find_recordings(source):
        open_neo.cache_clear()
        neo = open_neo(reader.name, str(source if given == "." else source / given))
        for block in range(neo.block_count()):
            for index in range(len(neo.header["signal_streams"])):
                channels = neo.header["signal_channels"]
                channels = channels[channels["stream_id"] == neo.header["signal_streams"]["id"][index]]
                found = [
                    group
                    for path in groups.values()
                    if list((group := zarr.open_consolidated(path, zarr_format=2))["properties/channel_name"][:])
                    == list(channels["name"])
                ]
                assert len(found) == 1, list(channels["name"])
                assert found[0].attrs["sampling_frequency"] == neo.get_signal_sampling_rate(index)
                gains = [gain * SCALE.get(unit, np.nan) for gain, unit in zip(channels["gain"], channels["units"])]
                offsets = [one * SCALE.get(unit, np.nan) for one, unit in zip(channels["offset"], channels["units"])]
                assert np.allclose(found[0]["properties/gain_to_uV"][:], gains, equal_nan=True)
                assert np.allclose(found[0]["properties/offset_to_uV"][:], offsets, equal_nan=True)
                for part in range(neo.segment_count(block)):
                    expected = neo.get_analogsignal_chunk(block, part, stream_index=index)
                    assert np.array_equal(found[0][f"traces_seg{part}"][:], expected)
                    assert found[0]["t_starts"][part] == neo.get_signal_t_start(block, part, index)
                count += 1
    return count


@pytest.mark.parametrize("write", neo_files.WRITERS, ids=lambda write: write.__name__)
def test_what_neo_reads_is_what_is_stored(
    write: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    write(source)
    report = compress(source, tmp_path / "out", "--chunk-seconds", "0.02")
    assert compare(source, tmp_path / "out") == len(report["facts"]["streams"]) >= 1
    assert report["not_carried"] == report["unaccounted"] == []
    assert all("lossy" not in row for row in report["sources"])
    originals = tree_bytes(source)
    copies = tree_bytes(tmp_path / "out" / "ecephys_clipped")
    differ = [path for path in originals if copies[path] != originals[path]]
    assert differ == ([CUT[write.__name__]] if write.__name__ in CUT else [])
    assert prove.main(["prove", str(tmp_path / "out")]) == 0
    assert f"{counted(len(originals), 'file')}, " in capsys.readouterr().out.splitlines()[-1]


def test_systems_that_nobody_tried_are_named() -> None:
    tried = {write.__name__.replace("_", "-") for write in (*neo_files.WRITERS, neo_files.edf)}
    assert tried <= READERS.keys()
    text = " ".join((REPOSITORY / "docs/reference/recordings.md").read_text().split())
    named = re.search(r"Not tried: ([^.]*)\.", text)
    assert named
    assert set(re.findall("`([^`]*)`", named[1])) == READERS.keys() - tried
    assert f"files of {len(tried)} of these systems" in text


def test_edf_needs_a_package_more(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    neo_files.edf(tmp_path / "in")
    if importlib.util.find_spec("pyedflib") is None:
        with pytest.raises(UsageError, match=r"in/a\.edf: neo needs the package pyedflib to read it; install it"):
            compress(tmp_path / "in", tmp_path / "out")
        return
    compress(tmp_path / "in", tmp_path / "out", "--chunk-seconds", "0.02")
    assert compare(tmp_path / "in", tmp_path / "out") == 1


@pytest.mark.parametrize("write", [neo_files.mcsraw, neo_files.intan], ids=lambda write: write.__name__)
def test_wavpack_takes_unsigned_samples(write: Callable[[Path], None], tmp_path: Path) -> None:
    pytest.importorskip("wavpack_numcodecs")
    (tmp_path / "in").mkdir()
    write(tmp_path / "in")
    report = compress(tmp_path / "in", tmp_path / "out", "--codec", "wavpack", "--chunk-seconds", "0.02")
    assert {stream["codec"] for stream in report["facts"]["streams"]} == {"wavpack"}
    assert compare(tmp_path / "in", tmp_path / "out"), "by numcodecs' own filter"
    assert prove.main(["prove", str(tmp_path / "out")]) == 0


def test_without_the_clipped_copy_only_samples_are_carried(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    neo_files.spikegadgets(tmp_path / "in")
    report = compress(tmp_path / "in", tmp_path / "out", "--no-clip")
    assert report["not_carried"] == ["a.rec"]
    assert not (tmp_path / "out" / "ecephys_clipped").exists()


def test_the_system_may_be_named_and_several_lie_together(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "in" / name).mkdir(parents=True)
        neo_files.neuroscope(tmp_path / "in" / name)
    neo_files.intan(tmp_path / "in")
    report = compress(tmp_path / "in", tmp_path / "out")
    names = {stream["name"] for stream in report["facts"]["streams"]}
    assert len(names) == 4, names
    report = compress(tmp_path / "in", tmp_path / "out2", "--format", "intan")
    assert len(report["facts"]["streams"]) == 2
    assert report["unaccounted"] == [], "the clipped copy has the files of the others"


def test_damage_and_what_neo_does_not_read_are_sentences(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    neo_files.bytes_missing(tmp_path / "in")
    with pytest.raises(LadingError, match="neo's IntanRawIO cannot read it"):
        compress(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "a.rhd").unlink()
    with pytest.raises(LadingError, match="no file of a system that neo reads"):
        compress(tmp_path / "in", tmp_path / "out")
