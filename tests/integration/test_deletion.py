"""Deleting sources rests on their bytes: whatever changed, when and how, the bucket holds what goes."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from lading.core.errors import LadingError
from lading.sessions import evidence, vocabulary
from lading.sessions import provenance as lineage
from lading.sessions import source_tree as sourcetree
from lading.sessions import tasks as steps
from lading.sessions.provenance import COMPRESSED, COPIES, OutputRecord, SourceRecord, read_lineages, write_provenance
from lading.sessions.source_tree import ASIDE, SourceTree, Stays
from lading.verification.manifest import read_manifest, write_manifest
from tests.collision import ONE, OTHER
from tests.conftest import mostly_long
from tests.deleting import MIB, Session, steps_in_process

PREFIX = "ecephys_1000_2024-05-27_16-07-00"
SECRET = "correct horse"


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LADING_ZIP_PASSWORD", SECRET)
    with steps_in_process():
        yield


@pytest.fixture
def trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take each stamp for settled: files of a test are younger than a minute, and would all be read again."""
    monkeypatch.setattr(lineage, "SETTLED_NS", -(10**13))


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def make_plain(source: Path) -> str:
    write(source / "deep" / "trials.csv", b"trial,choice\n" * 50)
    write(source / "notes.txt", b"water spout moved")
    return "deep/trials.csv"


def make_recording(source: Path) -> str:
    write(source / "samples.bin", np.arange(40000, dtype="<i2").tobytes())
    write(source / "probe.recording.yaml", b"channels: 4\nsampling_frequency: 1000\nfiles: samples.bin\n")
    return "samples.bin"


def make_stack(source: Path) -> str:
    source.mkdir(parents=True)
    for plane in range(3):
        image = np.full((32, 32), plane, "u2")
        tifffile.imwrite(source / f"plane_{plane}.tif", image, photometric="minisblack")
    write(source / "notes.txt", b"laser at 12 mW")
    return "plane_1.tif"


def make_videos(source: Path) -> str:
    write(source / "face.avi", b"RIFF" + bytes(5000))
    write(source / "notes.txt", b"body camera failed")
    return "face.avi"


KINDS: dict[str, tuple[str, dict[str, str], Callable[[Path], str]]] = {
    "copy": ("behavior", {}, make_plain),
    "direct": ("behavior", {"skip_staging": "TRUE"}, make_plain),
    "zip": ("behavior", {"compress_raw_data": "TRUE"}, make_plain),
    "folder": ("behavior", {"compress_raw_data": "TRUE", "pack": "copy"}, make_plain),
    "ecephys": ("ecephys", {}, make_recording),
    "SPIM": ("SPIM", {"compress_raw_data": "TRUE"}, make_stack),
    "video": ("behavior-videos", {"compress_raw_data": "TRUE", "preset": "none"}, make_videos),
    "video-zip": ("behavior-videos", {"compress_raw_data": "TRUE", "preset": "none", "video_zip": "aes"}, make_videos),
}


@pytest.fixture
def session(s3, bucket: str, tmp_path: Path) -> Callable[..., tuple[Session, Path]]:
    """Return a session of one modality of a kind, and the file of it that a test changes."""
    s3.make_bucket(bucket)

    def make(kind: str, server: Any = s3) -> tuple[Session, Path]:
        modality, cells, fill = KINDS[kind]
        source = tmp_path / "source"
        victim = fill(source)
        return Session(tmp_path, server.endpoint, bucket, {modality: (source, cells)}), source / victim

    return make


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def alter(path: Path, *, stamps: str) -> bytes:
    """Change one byte of a file; ``stamps``: new ones, "kept" (utime), or "replaced" by another file that has them."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if stamps == "replaced":
        other = path.with_name("other")
        other.write_bytes(content)
        os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(other, path)
    else:
        path.write_bytes(content)
        if stamps == "kept":
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return bytes(content)


@pytest.mark.parametrize("kind", mostly_long(KINDS, "ecephys", "zip"))
def test_what_was_delivered_whole_goes(session, kind: str, trusting) -> None:
    place, victim = session(kind)
    count = len(place.files())
    place.deliver()
    read = []
    original = SourceTree._read
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SourceTree, "_read", lambda *given: read.append(given) or original(*given))
        assert place.remove() == (count, [])
    assert not victim.parent.exists()
    assert not read or kind == "direct", "every state is that of its record"


@pytest.mark.parametrize("stamps", mostly_long(["new", "kept", "replaced"], "kept"))
@pytest.mark.parametrize("kind", mostly_long(KINDS, "copy"))
def test_what_changed_after_the_upload_stays(session, kind: str, stamps: str, trusting) -> None:
    place, victim = session(kind)
    place.deliver()
    content = alter(victim, stamps=stamps)
    _, kept = place.remove()
    assert victim.read_bytes() == content
    assert any(str(victim) in sentence and "it changed since it was read" in sentence for sentence in kept)


@pytest.mark.parametrize("kind", mostly_long(["copy", "zip"], "copy"))
def test_a_change_within_a_tick_of_the_clock_is_found_by_reading(session, kind: str) -> None:
    """A young stamp says nothing: the state is made equal in every field, as a write within one tick leaves it."""
    place, victim = session(kind)
    place.deliver()
    content = alter(victim, stamps="kept")
    (path,) = place.place.lineage.glob("*.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        if line.get("path") == os.path.relpath(victim, victim.parents[1] if "deep" in str(victim) else victim.parent):
            line["ctime_ns"] = victim.stat().st_ctime_ns
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    place.remove()
    assert victim.read_bytes() == content


@pytest.mark.parametrize("stamps", mostly_long(["new", "kept", "replaced"], "kept"))
@pytest.mark.parametrize("kind", mostly_long(["copy", "zip", "ecephys"], "copy"))
def test_what_changed_between_staging_and_upload_stays(session, kind: str, stamps: str, trusting) -> None:
    place, victim = session(kind)
    place.stage()
    content = alter(victim, stamps=stamps)
    place.upload()
    place.remove()
    assert victim.read_bytes() == content


@pytest.mark.parametrize("size", [1000, 51 * MIB], ids=["small", "in parts"])
@pytest.mark.parametrize("kind", mostly_long(["copy", "folder"], "copy"))
def test_a_staged_copy_that_changed_unseen_frees_nothing(session, kind: str, size: int, trusting) -> None:
    """What is sent is what lies in the staging folder: its bytes must be those of the source, whatever the size."""
    place, _ = session(kind)
    big = write(place.job.modalities[0].source / "big.bin", np.random.default_rng(1).bytes(size))
    place.stage()
    alter(place.staged / place.job.modalities[0].folder / "big.bin", stamps="kept")
    with pytest.raises(LadingError, match="compress_data will be repeated"):
        place.upload()
    before = digest(big)
    _, kept = place.remove()
    assert digest(big) == before
    assert any(str(big) in sentence for sentence in kept)


@pytest.mark.parametrize("kind", mostly_long(["zip", "ecephys", "SPIM"], "zip"))
def test_a_staged_output_that_changed_unseen_frees_nothing(session, kind: str, trusting) -> None:
    place, _ = session(kind)
    before = place.files()
    place.stage()
    folder = place.staged / place.job.modalities[0].folder
    output = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    alter(output, stamps="kept")
    with pytest.raises(LadingError, match="compress_data will be repeated"):
        place.upload()
    removed, kept = place.remove()
    assert (removed, place.files()) == (0, before)
    assert "of another compression than the last one" in kept[0]


@pytest.mark.parametrize("kind", mostly_long(["copy", "zip", "direct"], "copy"))
def test_a_bucket_that_lost_or_changed_an_object_frees_nothing(session, kind: str, trusting) -> None:
    place, victim = session(kind)
    place.deliver()
    before = place.files()
    objects = place.client.list_objects_v2(Bucket=place.bucket)["Contents"]
    key = next(item["Key"] for item in objects if item["Key"].endswith((victim.name, ".zip")))
    body = bytearray(place.client.get_object(Bucket=place.bucket, Key=key)["Body"].read())
    place.client.delete_object(Bucket=place.bucket, Key=key)
    place.remove()
    assert victim in place.files()
    body[0] ^= 1
    place.client.put_object(Bucket=place.bucket, Key=key, Body=bytes(body))
    place.remove()
    assert victim in place.files()
    assert (set(before) - set(place.files())) <= {path for path in before if path != victim}


@pytest.mark.parametrize("kind", mostly_long(["copy", "zip", "direct"], "copy"))
def test_a_server_that_lies_of_its_etag_is_found_by_reading(session, kind: str, s3, trusting) -> None:
    """The bytes in the bucket change behind the server's back, which goes on listing the old ETag from its memory."""
    place, victim = session(kind)
    place.deliver()
    stored = next(
        path
        for path in (s3.directory / place.bucket).rglob("*")
        if path.name == victim.name or path.name.endswith(".zip")
    )
    etags = _evidence(place).present([_path(stored, s3, place)])
    alter(stored, stamps="kept")
    with pytest.MonkeyPatch.context() as patch:
        original = evidence.Evidence.present
        patch.setattr(evidence.Evidence, "present", lambda self, paths: original(self, paths) | etags)
        place.remove()
    assert victim.exists()


def _path(stored: Path, s3: Any, place: Session) -> str:
    return str(stored.relative_to(s3.directory / place.bucket / PREFIX))


def _evidence(place: Session) -> evidence.Evidence:
    from lading.sessions.tasks import remove_sources as remove
    from lading.sessions.tasks.checks import store_of

    work = place.work("remove_source_folders")
    return evidence.Evidence(store_of(work), remove._sent(work), evidence.EvidenceLevel.ETAG, lambda: None)


def test_files_without_a_record_stay_and_are_named(session, trusting) -> None:
    for kind in ("zip",):
        place, victim = session(kind)
        place.deliver()
        late = write(victim.parent / "late.txt", b"came after the compression")
        link = victim.parent / "a link"
        link.symlink_to(late)
        count, kept = place.remove()
        assert count == 2
        assert sorted(kept) == [f"{path} stays: there is no record that it was read" for path in (link, late)]
        assert late.read_bytes() == b"came after the compression"


@pytest.mark.parametrize("kind", mostly_long(["copy", "direct", "zip"], "direct"))
def test_a_directory_swapped_for_a_link_loses_nothing(session, tmp_path: Path, kind: str, trusting) -> None:
    """The archive holds the very same files, by hard links: equal in every field but for the way to them."""
    place, victim = session(kind)
    place.deliver()
    archive = tmp_path / "archive"
    shutil.copytree(victim.parent, archive, copy_function=os.link)
    shutil.rmtree(victim.parent)
    victim.parent.symlink_to(archive)
    place.remove()
    assert (archive / victim.name).exists()


def test_a_source_that_became_a_link_loses_nothing(session, tmp_path: Path, trusting) -> None:
    place, victim = session("copy")
    place.deliver()
    source = place.job.modalities[0].source
    source.rename(tmp_path / "archive")
    source.symlink_to(tmp_path / "archive")
    count, kept = place.remove()
    assert (count, len(kept)) == (0, 2)
    assert (tmp_path / "archive" / "deep" / victim.name).exists()
    assert "its source is a link now" in kept[0]


def test_swapped_directories_lose_nothing(session, tmp_path: Path, trusting) -> None:
    """Two directories of equal names and stamps change places after the upload."""
    place, victim = session("copy")
    twin = victim.parents[1] / "twin" / victim.name
    write(twin, bytes(victim.stat().st_size))
    os.utime(twin, ns=(0, victim.stat().st_mtime_ns))
    os.utime(victim, ns=(0, victim.stat().st_mtime_ns))
    place.deliver()
    contents = {victim.read_bytes(), twin.read_bytes()}
    victim.parent.rename(tmp_path / "aside")
    twin.parent.rename(victim.parent)
    (tmp_path / "aside").rename(twin.parent)
    place.remove()
    assert {victim.read_bytes(), twin.read_bytes()} == contents


@pytest.mark.parametrize("kind", mostly_long(["copy", "zip", "direct"], "copy"))
def test_hard_links_go_one_by_one(session, tmp_path: Path, kind: str, trusting) -> None:
    """The first that goes changes the state of the second, which is then read; a name outside the source is left."""
    place, victim = session(kind)
    os.link(victim, victim.with_name("second"))
    os.link(victim, tmp_path / "outside")
    place.deliver()
    assert place.remove() == (3, [])
    assert (tmp_path / "outside").exists()


def test_what_took_a_files_place_stays(session, trusting) -> None:
    place, victim = session("copy")
    place.deliver()
    victim.unlink()
    os.mkfifo(victim)
    assert place.remove()[0] == 1
    assert victim.is_fifo()
    victim.unlink()
    victim.mkdir()
    assert place.remove()[0] == 0
    assert victim.is_dir()


def test_a_file_that_is_open_for_writing_stays(session, trusting) -> None:
    place, victim = session("copy")
    place.deliver()
    with open(victim, "r+b") as stream:
        _, kept = place.remove()
        assert f"{victim} stays: it is open for writing" in kept
        stream.write(b"late")
    assert victim.read_bytes().startswith(b"late")


@pytest.mark.parametrize("moment", mostly_long(["before", "after"], "after"))
def test_a_file_that_appears_while_another_is_deleted_is_not_deleted(session, moment: str, trusting) -> None:
    """Between the look at a file and its end, another one takes its name."""
    place, victim = session("copy")
    place.deliver()
    rename = os.rename

    def slow(source: str, target: str, **where: int) -> None:
        if target.startswith(ASIDE) and source == victim.name:
            if moment == "before":
                os.replace(write(victim.parent / "new", b"new content"), victim)
            rename(source, target, **where)
            if moment == "after":
                victim.write_bytes(b"new content")
        else:
            rename(source, target, **where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sourcetree.os, "rename", slow)
        place.remove()
    assert victim.read_bytes() == b"new content"
    assert [path.name for path in victim.parent.iterdir()] == [victim.name]


def test_a_write_between_the_look_and_the_end_is_seen(session, trusting) -> None:
    place, victim = session("copy")
    place.deliver()
    rename = os.rename

    def slow(source: str, target: str, **where: int) -> None:
        if source == victim.name:
            # A lease keeps an ordinary writer waiting: this one gives up.
            with pytest.raises(BlockingIOError):
                os.open(victim, os.O_WRONLY | os.O_NONBLOCK)
        rename(source, target, **where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sourcetree.os, "rename", slow)
        _, kept = place.remove()
    assert f"{victim} stays: it is open for writing" in kept
    assert victim.exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from lading.sessions import source_tree as sourcetree
from tests.deleting import Session
directory, endpoint, bucket, source = sys.argv[1:]
session = Session(Path(directory), endpoint, bucket, {"behavior": (Path(source), {})})
def unlink(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
class Os:
    def __getattr__(self, name):
        return getattr(os, name)
sourcetree.os = Os()
sourcetree.os.unlink = unlink
session.remove()
"""


@pytest.mark.parametrize("then", mostly_long(["kept", "taken"], "kept"))
def test_a_killed_deletion_is_mended_by_the_next(session, tmp_path: Path, then: str) -> None:
    place, _ = session("copy")
    place.deliver()
    source = place.job.modalities[0].source
    before = {path: path.read_bytes() for path in place.files()}
    command = [sys.executable, "-c", KILLED, str(tmp_path), place.endpoint, place.bucket, str(source)]
    killed = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (left,) = [path for path in place.files() if path.name.startswith(ASIDE)]
    (lacking,) = set(before) - set(place.files())
    assert left.read_bytes() == before[lacking]
    if then == "taken":
        lacking.write_bytes(b"another")
    _, kept = place.remove(dry_run=True)
    assert before.items() - {(path, path.read_bytes()) for path in place.files()} == (
        {(lacking, before[lacking])} if then == "taken" else set()
    )
    place.remove()
    if then == "taken":
        assert sorted(place.files()) == [left, lacking]
        assert any(f"{lacking} stays: an interrupted deletion left it as {left.name}" in line for line in kept)
        lacking.unlink()
        place.remove()
    assert not source.exists()
    assert not place.place.removing.exists()


def test_a_shipment_that_is_not_whole_frees_nothing(session) -> None:
    place, _ = session("direct")
    place.deliver()
    before = place.files()
    for name in ("behavior", "staged"):
        path = place.place.upload_unit(name) / "manifest.jsonl.zst"
        found = read_manifest(path)
        whole = path.read_bytes()
        write_manifest(path, found.header, list(found.rows())[:-1], complete=False)
        assert place.remove()[0] == 0
        path.unlink()
        assert place.remove()[0] == 0
        path.write_bytes(whole)
    assert place.files() == before
    assert place.remove()[0] == len(before)


def test_what_an_earlier_version_noted(session, trusting) -> None:
    """Copies without digests are read and compared with their rows; a compression without them stays."""
    place, victim = session("copy")
    place.deliver()
    (path,) = place.place.lineage.glob("*.jsonl")
    (found,) = read_lineages(place.place.lineage)
    source = place.job.modalities[0].source
    files = [
        {"source": str(source / one.path), "key": one.key, "size": one.size, "mtime_ns": one.state.mtime_ns, "md5": "x"}
        for one in found.records
    ]
    path.unlink()
    old = path.with_suffix(".json")
    old.write_text(json.dumps({"format": 1, "kind": "copies", "files": files}))
    alter(victim, stamps="kept")
    count, kept = place.remove()
    assert (count, kept) == (1, [f"{victim} stays: it changed since it was read"])
    sources = [[str(victim), victim.stat().st_size, victim.stat().st_mtime_ns]]
    old.write_text(json.dumps({"format": 1, "kind": "transformed", "folder": "behavior", "sources": sources}))
    assert place.remove()[0] == 0


def test_damaged_records_free_nothing(session) -> None:
    place, _ = session("copy")
    place.deliver()
    before = place.files()
    (path,) = place.place.lineage.glob("*.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    for damaged in ("".join(lines[:-1]), "".join(lines[:1] + lines[2:]), "[]\n" + "".join(lines[1:]), ""):
        path.write_text(damaged)
        assert place.remove()[0] == 0
    path.unlink()
    _, kept = place.remove()
    assert kept == [f"{place.job.modalities[0].source} stays: there is no record that it was read"]
    assert place.files() == before


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    status = sourcetree.FileState(1, 2, 3, 4, 5)
    records = (
        SourceRecord("a/b", 1, "ab", status, 7, "behavior/a/b"),
        SourceRecord("odd\udcff", 0, None, None, 0, "", "its events have no object"),
    )
    outputs = (OutputRecord("behavior/x.zip", 3, "cd"),)
    write_provenance(tmp_path, "behavior", tmp_path, COPIES, records, outputs)
    (tmp_path / "link").symlink_to(tmp_path)
    write_provenance(tmp_path, "ecephys", tmp_path / "link", COMPRESSED, ())
    first, second = read_lineages(tmp_path)
    assert (first.records, first.outputs, first.how, first.linked) == (records, outputs, COPIES, False)
    assert (second.records, second.source, second.linked) == ((), str(tmp_path / "link"), True)


def test_the_levels() -> None:
    assert tuple(evidence.EvidenceLevel) == vocabulary.DELETION_LEVELS
    with pytest.raises(LadingError, match="'md5'; give one of etag, checksum, download"):
        evidence.parse_level("md5")


def test_nothing_outside_is_reached(tmp_path: Path) -> None:
    """A record that names something outside, as an edited one may, opens nothing."""
    write(tmp_path / "outside", b"1")
    (tmp_path / "source").mkdir()
    tree = SourceTree(tmp_path / "source", lambda: None)
    for path in ("../outside", "x/../../outside", str(tmp_path / "outside")):
        directory, name = tree.place(SourceRecord(path, 1, "x"))
        with pytest.raises((Stays, OSError)), tree.directory(directory) as opened:
            tree.look(opened, name, SourceRecord(path, 1, "x"), "x")
    tree.close()


@pytest.mark.parametrize("kind", mostly_long(["copy", "direct", "zip"], "direct"))
def test_the_only_copy_of_a_deleted_source_is_not_replaced(session, kind: str) -> None:
    """What came later under an old name, or into the same archive, must not overwrite what is in the bucket alone."""
    place, victim = session(kind)
    place.deliver()
    late = write(victim.parent / "late.txt", b"came after the upload")
    assert place.remove()[0] == 2
    rows = {row.key for path in place.place.removed.iterdir() for row in read_manifest(path).rows()}
    assert rows == set(_bodies(place))
    if kind != "zip":
        write(victim, b"other content under the old name")
    before = _bodies(place)
    with pytest.raises(LadingError, match="is the only copy of deleted sources and would be replaced"):
        place.deliver()
    assert before.items() <= _bodies(place).items()
    if kind != "zip":
        victim.unlink()
        place.deliver()
        assert place.remove()[0] == 1
        assert not late.exists()


def _bodies(place: Session) -> dict[str, bytes]:
    objects = place.client.list_objects_v2(Bucket=place.bucket).get("Contents", ())
    get = place.client.get_object
    return {item["Key"]: get(Bucket=place.bucket, Key=item["Key"])["Body"].read() for item in objects}


@pytest.mark.parametrize("kind", mostly_long(["SPIM", "folder", "video", "copy", "direct"], "copy"))
def test_files_with_names_of_the_programs_own_are_in_the_bucket_when_they_go(session, kind: str, trusting) -> None:
    place, _ = session(kind)
    source = place.job.modalities[0].source
    names = ("compress.json", ".compress.json.bak", ".lading-work-notes", "sub/.lading-work-x/y", f"{ASIDE}0-0")
    ours = {write(source / name, name.encode() * 5) for name in (*names, "find.json", "journal/x.jsonl")}
    contents = {path.read_bytes() for path in ours}
    place.deliver()
    removed, kept = place.remove()
    assert (removed > len(ours), kept) == (True, [])
    assert contents <= set(_bodies(place).values())


@pytest.mark.parametrize("kind", mostly_long(["copy", "direct"], "direct"))
def test_objects_that_were_there_before_are_read_and_their_sources_go(session, kind: str, trusting) -> None:
    """An upload believes their MD5; the deletion of a normal session reads them, and then nothing is in its way."""
    place, victim = session(kind)
    relative = victim.relative_to(place.job.modalities[0].source)
    key = f"{place.job.prefix}/{place.job.modalities[0].folder}/{relative}"
    place.client.put_object(Bucket=place.bucket, Key=key, Body=victim.read_bytes())
    place.deliver()
    rows = {
        row.key: row
        for path in place.place.directory.glob("upload/*/manifest.jsonl.zst")
        for row in read_manifest(path).rows()
    }
    assert rows[key].present_before is True
    assert place.remove() == (2, [])
    assert not victim.exists()


def test_a_dry_run_names_what_it_cannot_read(session, monkeypatch: pytest.MonkeyPatch) -> None:
    place, victim = session("direct")
    place.stage()
    preview = steps.find("upload_data_to_s3", dry_run=True)
    assert preview(place.work("upload_data_to_s3"))["would_send"] > 1
    scandir = os.scandir

    def refuse(path: Any) -> Any:
        if os.fspath(path) == str(victim.parent):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(LadingError, match=f"cannot be read: {victim.parent} .Permission denied.; make them readable"):
        preview(place.work("upload_data_to_s3"))


@pytest.mark.parametrize("word", [None, 0, "", []])
def test_what_is_not_false_deletes_nothing(session: Callable[..., tuple[Session, Path]], word: object) -> None:
    place, victim = session("copy")
    place.deliver()
    assert place.remove(dry_run=word) == (0, [])
    assert victim.exists()
    assert place.remove()[0] > 0  # the same source goes when it is ordered


@pytest.mark.parametrize("kind", ["copy", "zip"])
def test_a_link_that_leads_elsewhere_since_the_upload_frees_nothing(session, tmp_path: Path, kind: str) -> None:
    """The other directory holds files of the same names and bytes, of another run."""
    place, _ = session(kind)
    source = place.job.modalities[0].source
    source.rename(tmp_path / "run1")
    source.symlink_to(tmp_path / "run1")
    place.deliver()
    shutil.copytree(tmp_path / "run1", tmp_path / "run2")
    source.unlink()
    source.symlink_to(tmp_path / "run2")
    count, kept = place.remove()
    assert count == 0
    assert "another directory is there now" in kept[0]
    source.unlink()
    source.symlink_to(tmp_path / "run1")
    assert place.remove() == (2, [])


def test_an_object_of_equal_md5_that_was_put_there_later_is_read(s3, bucket: str, tmp_path: Path, trusting) -> None:
    """Its row has what a server with checksums tells, so that the row alone would be enough for the sent object."""
    s3.make_bucket(bucket)
    victim = write(tmp_path / "source" / "a.bin", ONE)
    place = Session(tmp_path, s3.endpoint, bucket, {"behavior": (victim.parent, {})})
    place.deliver()
    path = place.place.upload_unit("staged") / "manifest.jsonl.zst"
    found = read_manifest(path)
    rows = [replace(row, server_checksum="crc64nvme:AAAAAAAAAAA=") for row in found.rows()]
    (row,) = (row for row in rows if row.path == "behavior/a.bin")
    # A listing counts whole seconds: the row's is made an earlier one.
    rows[rows.index(row)] = replace(row, uploaded_at="2020-01-01T00:00:00+00:00")
    write_manifest(path, found.header, rows, complete=True)
    place.client.put_object(Bucket=bucket, Key=row.key, Body=OTHER)
    count, kept = place.remove()
    assert (count, victim.read_bytes()) == (0, ONE)
    assert kept == [f"{victim} stays: behavior/a.bin in the bucket is not what was read from it"]
    place.client.put_object(Bucket=bucket, Key=row.key, Body=ONE)
    assert place.remove() == (1, [])
