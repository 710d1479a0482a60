"""What stands in a source file's place when its turn comes, and what ties records to the bytes that were compressed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.cli import compress as command
from lading.compress import file_records as records
from lading.compress import hashing, reads
from lading.compress.job import CompressionJob, CompressionUnit, Kind, SourceFault, load_kind
from lading.compress.sources import OpenFile, Source
from lading.testing.ephys_data import make_samples, write_openephys, write_spikeglx
from tests.images import light_sheet, write_imaris
from tests.integration.test_video import make_video
from tests.kinds import plan_job

SMALL = {"levels": 1, "chunk": "8,8,16", "shard": "16,32,32"}
Made = tuple[str, str, dict[str, Any]]


def tiff(top: Path) -> Made:
    tifffile.imwrite(top / "a.tif", light_sheet((9, 40, 50)), metadata=None)
    return "imaging", "a.tif", SMALL


def packed_tiff(top: Path) -> Made:
    tifffile.imwrite(top / "a.tif", light_sheet((9, 40, 50)), metadata=None, compression="zlib")
    return "imaging", "a.tif", SMALL


def imaris(top: Path) -> Made:
    write_imaris(top / "a.ims", light_sheet((9, 40, 50))[None, None], (2.0, 1.0, 1.0))
    return "imaging", "a.ims", SMALL


def zarr_array(top: Path) -> Made:
    zarr.save_array(top / "a.zarr", light_sheet((9, 40, 50)), zarr_format=2)
    return "imaging", next(str(p.relative_to(top)) for p in sorted((top / "a.zarr").rglob("0*"))), SMALL


def recording(top: Path) -> Made:
    write_openephys(top, {"Neuropix-PXI-100.ProbeA-AP": make_samples(900, 8, 0, units=3)})
    return "ephys", str(next(top.rglob("continuous.dat")).relative_to(top)), {"clip": False}


def clipped(top: Path) -> Made:
    write_spikeglx(top, make_samples(900, 384, 0, units=3))
    return "ephys", str(next(top.rglob("*.meta")).relative_to(top)), {}


def files(top: Path) -> Made:
    (top / "deep").mkdir()
    (top / "deep" / "f").write_bytes(b"x" * 1000)
    return "generic", "deep/f", {}


def packed(top: Path) -> Made:
    return *files(top)[:2], {"pack": "plain"}


def legacy(top: Path) -> Made:
    pytest.importorskip("pyminizip")
    return *files(top)[:2], {"pack": "legacy"}


def video(top: Path) -> Made:
    make_video(top / "a.avi")
    return "video", "a.avi", {"preset": "no-gamma"}


def linked_video(top: Path) -> Made:
    make_video(top / "a.avi")
    return "video", "a.avi", {"preset": "none"}


def zipped_video(top: Path) -> Made:
    make_video(top / "a.avi")
    return "video", "a.avi", {"preset": "none", "video_zip": "aes"}


AT_TOP = (tiff, packed_tiff, imaris, video, linked_video, zipped_video)  # their file has no directory above it
IMAGES = [tiff, packed_tiff, imaris, zarr_array]
KINDS = [*IMAGES, recording, clipped, files, packed, legacy, video, linked_video, zipped_video]

Prepared = tuple[Kind, CompressionJob, list[CompressionUnit], Path, Path]


@pytest.fixture(params=KINDS, ids=[make.__name__ for make in KINDS])
def prepared(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    """A planned job, the units that read one file of it, that file, and a file that is nobody's business."""
    monkeypatch.setenv("LADING_ZIP_PASSWORD", "secret")
    source = tmp_path / "in"
    source.mkdir()
    kind, victim, options = request.param(source)
    job, plan = plan_job(kind, source, tmp_path / "out", **options)
    hashed = list(hashing.plan_units(Source(source), plan.partly))
    secret = tmp_path / "secret"
    shutil.copy2(source / victim, secret)
    return load_kind(kind), job, [*plan.units, *hashed], source / victim, secret


def run_all(kind: Kind, job: CompressionJob, units: list[CompressionUnit], state: Path) -> list[str]:
    """Run every unit; returns what failed, in its words."""
    failed = []
    for unit in units:
        try:
            if unit.id.startswith("sha256/"):
                hashing.run(kind, job, unit, state)
            else:
                kind.run(job, unit)
        except SourceFault as error:
            failed.append(str(error))
    return failed


def swap_link(victim: Path, secret: Path) -> None:
    victim.symlink_to(secret)


def swap_folder_above(victim: Path, secret: Path) -> None:
    above = victim.parent
    secret.rename(secret.with_name(victim.name))
    above.rename(above.with_name("aside"))
    above.symlink_to(secret.parent)


def swap_pipe(victim: Path, _: Path) -> None:
    os.mkfifo(victim)


def swap_folder(victim: Path, _: Path) -> None:
    victim.mkdir()


SWAPS = [swap_link, swap_folder_above, swap_pipe, swap_folder]
# The top of a source is what its user named: a link there is followed.
PAIRS = [(make, swap) for make in KINDS for swap in SWAPS if not (make in AT_TOP and swap is swap_folder_above)]


@pytest.mark.parametrize(
    ("prepared", "swap"), PAIRS, indirect=["prepared"], ids=[f"{a.__name__}-{b.__name__}" for a, b in PAIRS]
)
def test_what_took_the_place_of_a_file_is_not_read(
    prepared: Prepared, swap: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    """The bytes would be right, so nothing but the way they are opened can tell."""
    kind, job, units, victim, secret = prepared
    assert run_all(kind, job, units, tmp_path / "state") == []
    if swap is swap_folder_above:
        swap(victim, secret)
    else:
        victim.unlink()
        swap(victim, secret)
    failed = run_all(kind, job, units, tmp_path / "state")
    assert failed
    words = {
        swap_link: "it is a symbolic link now",
        swap_folder_above: "above it is a symbolic link now",
        swap_pipe: "it is a pipe now",
        swap_folder: "it is a directory now",
    }
    assert all(words[swap] in sentence or "changed since the work was planned" in sentence for sentence in failed)
    assert any(words[swap] in sentence for sentence in failed)


def test_links_are_followed_to_what_they_led_to(tmp_path: Path, run: Any) -> None:
    source, other = tmp_path / "in", tmp_path / "other"
    source.mkdir()
    other.write_bytes(b"content")
    (source / "link").symlink_to(other)
    assert command.main([str(source), str(tmp_path / "out"), "--kind", "generic", "--workers", "1"]) == 0
    assert (tmp_path / "out/link").read_bytes() == b"content"
    assert not (tmp_path / "out/link").is_symlink()
    (found,) = records.read_sources(tmp_path / "out.state")
    assert (found.path, found.inode) == ("link", other.stat().st_ino)
    job, plan = plan_job("generic", source, tmp_path / "out2")
    with pytest.raises(SourceFault, match="link: cannot be read: it is a symbolic link now"):
        load_kind("generic").run(job, plan.units[0])


def run_here(monkeypatch: pytest.MonkeyPatch, *argv: object) -> int:
    """Run the command in this process, where functions were replaced."""
    monkeypatch.setattr(os, "_exit", lambda code: (_ for _ in ()).throw(SystemExit(code)))
    with pytest.raises(SystemExit) as ended:
        command.main([*map(str, argv), "--workers", "1", "--engine", "mpi"])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("make", [*IMAGES, recording])
def test_other_bytes_than_were_compressed_give_no_record(
    make: Callable[[Path], Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One bit of one block differs between what the units read and what the whole reading did."""
    source = tmp_path / "in"
    source.mkdir()
    kind, victim, _ = make(source)
    read = hashing._read_all

    def flip(files: Sequence[OpenFile]) -> list[tuple[str, reads.Table]]:
        found = read(files)
        for file, (_, table) in zip(files, found):
            if file.path == victim:
                table[len(table) // 2] ^= 1
        return found

    monkeypatch.setattr(hashing, "_read_all", flip)
    flags = ["--levels", "1"] if kind == "imaging" else []
    assert run_here(monkeypatch, source, tmp_path / "out", "--kind", kind, *flags) == 4
    assert f"{source / victim}: what was compressed is not what was hashed" in capsys.readouterr().err
    assert not (tmp_path / "out.state" / "sources.jsonl").exists()
    assert not (tmp_path / "out" / "compress.json").exists()


def test_a_file_that_changes_between_its_units_fails_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Size and mtime stay: only ctime tells."""
    source = tmp_path / "in"
    source.mkdir()
    _, victim, _ = recording(source)
    kind = load_kind("ephys")
    run, done = kind.run, []

    def change(job: CompressionJob, unit: CompressionUnit) -> Any:
        if len(done) == 1:
            before = (source / victim).stat()
            with open(source / victim, "r+b") as stream:
                stream.write(b"\x01")
            os.utime(source / victim, ns=(before.st_atime_ns, before.st_mtime_ns))
        done.append(unit.id)
        return run(job, unit)

    monkeypatch.setattr(kind, "run", change)
    assert run_here(monkeypatch, source, tmp_path / "out", "--kind", "ephys", "--chunk-seconds", "0.01") == 4
    assert "it changed meanwhile" in capsys.readouterr().err


def test_a_change_of_state_alone_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another mode is another ctime: the bytes decide, and the record holds the present state."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "f").write_bytes(b"content")
    kind = load_kind("generic")
    finish = kind.finish

    def change(*arguments: Any) -> Any:
        (source / "f").chmod(0o600)
        return finish(*arguments)

    monkeypatch.setattr(kind, "finish", change)
    assert run_here(monkeypatch, source, tmp_path / "out", "--kind", "generic") == 0
    (found,) = records.read_sources(tmp_path / "out.state")
    assert found.ctime_ns == (source / "f").stat().st_ctime_ns
    assert found.sha256 == hashlib.sha256(b"content").hexdigest()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_notes_are_of_the_bytes_that_were_read(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    size = data.draw(st.integers(0, 5 * reads.BLOCK + 7))
    content = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    top = tmp_path_factory.mktemp("notes")
    (top / "f").write_bytes(content)
    wanted: set[int] = set()
    with reads.recorded() as noted, Source(top) as source, source.open("f") as file:
        stream = file.as_file()
        for _ in range(data.draw(st.integers(1, 6))):
            start = data.draw(st.integers(0, size))
            length = data.draw(st.integers(0, 2 * reads.BLOCK))
            stop = min(size, start + length)
            if data.draw(st.booleans()):
                stream.seek(start)
                assert stream.read(length) == content[start:stop]
            else:
                passing = file.passing(start)
                cut = start + (stop - start) // 3
                passing.feed(memoryview(content)[start:cut])
                passing.feed(memoryview(content)[cut:stop])
                passing.close()
            if start < stop:
                wanted.update(range(start // reads.BLOCK, -(-stop // reads.BLOCK)))
        _, table = hashing._read(file)
        state = file.state.pinned()
    found = noted.encode().get("f", [[], ""])
    assert set().union(*(range(first, end) for first, end in found[0])) >= wanted
    if wanted:
        found = json.loads(json.dumps(found))
        assert reads.agrees(found, state, table)
        assert not reads.agrees(found, [*state[:2], state[2] + 1, state[3]], table)
        table[max(wanted)] ^= 1
        assert not reads.agrees(found, state, table)


def test_a_record_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number in range(3):
        (source / os.fsdecode(b"\xff%d" % number)).write_bytes(b"%d" % number)
    assert command.main([str(source), str(tmp_path / "out"), "--kind", "generic", "--workers", "1"]) == 0
    path = tmp_path / "out.state" / "sources.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert b"".join(lines).isascii()
    assert {record.path for record in records.read_sources(path.parent)} == set(os.listdir(source))
    path.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(Exception, match="is damaged"):
        records.read_sources(path.parent)


def test_voxels_in_other_files_are_read_and_have_no_record(tmp_path: Path) -> None:
    """HDF5 looks for them beside the file that names them, and gives zeros where it finds none."""
    source = tmp_path / "in"
    source.mkdir()
    voxels = light_sheet((9, 40, 50))
    with h5py.File(source / "part.data", "w") as file:
        file["v"] = voxels
    layout = h5py.VirtualLayout(voxels.shape, voxels.dtype)
    layout[:] = h5py.VirtualSource("part.data", "v", voxels.shape)
    with h5py.File(source / "a.h5", "w") as file:
        file.create_virtual_dataset("image", layout)
    argv = [str(source), str(tmp_path / "out"), "--kind", "imaging", "--levels", "1", "--workers", "1"]
    assert command.main(argv) == 0
    assert np.array_equal(zarr.open_array(tmp_path / "out/a.ome.zarr/0", mode="r")[0, 0], voxels)
    assert [record.path for record in records.read_sources(tmp_path / "out.state")] == ["part.data"]
    assert json.loads((tmp_path / "out/compress.json").read_bytes())["not_carried"] == ["a.h5"]
