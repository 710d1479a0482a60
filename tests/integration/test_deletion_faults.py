"""Deletions that were broken off, contradicted or half believed: nothing waits unknown, no only copy is replaced."""

# ruff: noqa: F811 - fixtures of another module

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from lading.core.atomic import AppendLog, read_log
from lading.core.errors import LadingError
from lading.sessions import tasks as steps
from lading.sessions.only_copies import OnlyCopies
from lading.sessions.source_tree import ASIDE, SourceTree
from lading.sessions.tasks import removable_files, remove_sources
from tests.conftest import mostly_long
from tests.deleting import Session
from tests.integration.test_deletion import in_process, session, trusting, write  # noqa: F401 - fixtures
from tests.unit.sessions.test_table import parsed

TOKEN = f"{ASIDE}0123456789abcdef-0"


class Killed(BaseException):
    """The process ends here."""


def raising(error: BaseException) -> Callable[..., Any]:
    """Return what raises an error, whatever it is given."""

    def refuse(*_: object) -> None:
        raise error

    return refuse


def break_off(place: Session, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Delete sources, and end like a killed process once the file of that name is renamed."""
    rename = os.rename

    def killed(source: str, target: str, **where: int) -> None:
        rename(source, target, **where)
        if source == name:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("lading.sessions.source_tree.os.rename", killed)
        patch.setattr("lading.sessions.source_tree.put_back", raising(Killed()))
        with pytest.raises(Killed):
            place.remove()


@pytest.fixture
def single(s3, bucket: str, tmp_path: Path) -> Session:
    """A session whose source is one file."""
    s3.make_bucket(bucket)
    source = write(tmp_path / "disk" / "data.bin", b"x" * 5000)
    return Session(tmp_path, s3.endpoint, bucket, {"behavior": (source, {})})


def note_earlier(place: Session, source: Path, directory: str, name: str) -> None:
    """Write down what waits, as earlier versions did: without the directory that was held."""
    with AppendLog(place.place.removing) as log:
        log.append([{"source": str(source), "directory": directory, "name": name, "aside": TOKEN}])


@pytest.mark.parametrize("noted", mostly_long(["now", "earlier"], "now"))
def test_a_source_that_is_a_file_is_put_back_after_a_kill(single: Session, noted: str, monkeypatch) -> None:
    single.deliver()
    source = single.job.modalities[0].source
    if noted == "now":
        break_off(single, monkeypatch, source.name)
    else:
        note_earlier(single, source, "", source.name)
        source.rename(source.with_name(TOKEN))
    assert not source.exists()
    assert single.remove(dry_run=True) == (0, [])
    assert source.read_bytes() == b"x" * 5000
    assert not single.place.removing.exists()
    assert single.remove() == (1, [])
    assert list(source.parent.iterdir()) == []
    assert not single.place.removing.exists()


@pytest.mark.parametrize("noted", mostly_long(["now", "earlier"], "now"))
@pytest.mark.parametrize("kind", mostly_long(["directory", "file"], "directory"))
def test_what_waits_is_known_while_its_file_system_is_away(
    session, single: Session, tmp_path: Path, kind: str, noted: str, monkeypatch
) -> None:
    """The mount point is there without its mount, then not even that."""
    place, victim = session("copy") if kind == "directory" else (single, single.job.modalities[0].source)
    place.deliver()
    source = place.job.modalities[0].source
    mount = source if kind == "directory" else source.parent
    content = victim.read_bytes()
    if noted == "now":
        break_off(place, monkeypatch, victim.name)
    else:
        note_earlier(place, source, "deep" if kind == "directory" else "", victim.name)
        victim.rename(victim.with_name(TOKEN))
    away = tmp_path / "away"
    mount.rename(away)
    mount.mkdir()
    for there in (True, False):
        if not there:
            mount.rmdir()
        for dry_run in (True, False):
            _, kept = place.remove(dry_run=dry_run)
            (line,) = (line for line in kept if line.startswith(f"{victim} stays: an interrupted deletion may have"))
            assert f"{mount} is not there now, or is another directory" in line
            assert f"remove {place.place.removing}" in line
            assert mount.exists() == there, "an empty mount point is nobody's to remove"
    away.rename(mount)
    _, kept = place.remove(dry_run=True)
    assert kept == []
    assert victim.read_bytes() == content
    assert not place.place.removing.exists()


@pytest.mark.parametrize("moment", mostly_long(["before", "after"], "after"))
def test_a_directory_that_is_gone_by_our_own_hand_is_no_riddle(session, moment: str, monkeypatch, trusting) -> None:
    """Killed before or after the directories were removed that no file is in any more."""
    place, _ = session("copy")
    place.deliver()
    prune = SourceTree.prune

    def killed(tree: SourceTree, directories: set[str]) -> None:
        if moment == "after":
            prune(tree, directories)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(SourceTree, "prune", killed)
        with pytest.raises(Killed):
            place.remove()
    assert place.job.modalities[0].source.exists() == (moment == "before")
    assert place.remove() == (0, [])
    assert not place.job.modalities[0].source.exists()
    assert not place.place.removing.exists()


@pytest.mark.long
def test_a_damaged_line_of_what_waits_is_named_and_kept(session) -> None:
    place, victim = session("copy")
    place.deliver()
    note_earlier(place, place.job.modalities[0].source, "deep", "another")
    log = place.place.removing
    log.write_bytes(log.read_bytes().replace(b"another", b"amother"))
    _, kept = place.remove()
    assert any(line.startswith(f"{log}, line 1 is damaged (its checksum is wrong)") for line in kept)
    assert log.exists()
    assert not victim.exists()


@pytest.mark.long
def test_a_file_that_cannot_be_unlinked_nor_put_back_stays_known(session, monkeypatch, trusting) -> None:
    place, victim = session("copy")
    place.deliver()
    unlink = os.unlink

    def refuse(path: str, **where: int) -> None:
        if str(path).startswith(ASIDE) and victim.with_name(path).exists():
            write(victim, b"another")
            raise OSError(5, "Input/output error")
        unlink(path, **where)

    with monkeypatch.context() as patch:
        patch.setattr("lading.sessions.source_tree.os.unlink", refuse)
        _, kept = place.remove()
    assert any("it cannot be removed: Input/output error; it is beside it as" in line for line in kept)
    (entry,) = read_log(place.place.removing)
    assert entry
    assert victim.with_name(str(entry["aside"])).exists()
    victim.unlink()
    assert place.remove()[1] == []
    assert not place.place.removing.exists()


@pytest.mark.parametrize("kind", mostly_long(["folder", "zip"], "zip"))
def test_objects_are_looked_at_before_each_group(session, kind: str, monkeypatch, trusting) -> None:
    """They vanish when the first file is gone."""
    place, _ = session(kind)
    place.deliver()
    monkeypatch.setattr(remove_sources, "GROUP", 1)
    original, count = SourceTree.remove, len(place.files())

    def vanish(*given: Any) -> bool:
        done = original(*given)
        for item in place.client.list_objects_v2(Bucket=place.bucket).get("Contents", ()):
            place.client.delete_object(Bucket=place.bucket, Key=item["Key"])
        return done

    monkeypatch.setattr(SourceTree, "remove", vanish)
    removed, kept = place.remove()
    (left,) = place.files()
    assert (removed, count) == (1, 2)
    assert kept == [f"{left} stays: an object that replaces it is gone from the bucket"]


@pytest.mark.parametrize("how", mostly_long(["open", "cancelled", "killed", "changed"], "open"))
@pytest.mark.parametrize("kind", mostly_long(["copy", "zip"], "copy"))
def test_what_was_not_deleted_is_no_only_copy(session, kind: str, how: str, monkeypatch, trusting) -> None:
    """The file that stays may be changed and sent again."""
    place, victim = session(kind)
    for path in place.files():
        if path != victim:
            path.unlink()
    place.deliver()
    if how == "open":
        with open(victim, "ab"):
            assert place.remove()[0] == 0
    elif how == "changed":
        look = removable_files.SourceJudge._look
        with monkeypatch.context() as patch:
            patch.setattr(removable_files.SourceJudge, "_look", lambda *a: (look(*a), victim.write_bytes(b"!"))[0])
            assert place.remove()[0] == 0
    elif how == "cancelled":
        with monkeypatch.context() as patch:
            patch.setattr(SourceTree, "remove", raising(LadingError("was cancelled")))
            place.remove()
    else:
        break_off(place, monkeypatch, victim.name)
        place.remove(dry_run=True)
    assert list(OnlyCopies(place.place.only_copies).items()) == []
    victim.write_bytes(b"more of it")
    place.deliver()
    assert place.remove() == (1, [])
    assert list(OnlyCopies(place.place.only_copies).items()) != []


@pytest.mark.long
def test_an_only_copy_stays_one_when_a_later_deletion_does_not_take_place(session, trusting) -> None:
    """Two files, one gone: what a later run takes back is its own."""
    place, victim = session("copy")
    place.deliver()
    with open(victim, "ab"):
        assert place.remove()[0] == 1
    (gone,) = OnlyCopies(place.place.only_copies).items()
    assert gone[0] == "behavior/notes.txt"
    write(victim.parents[1] / "notes.txt", b"other words")
    with pytest.raises(LadingError, match="is the only copy of deleted sources"):
        place.deliver()


def test_a_damaged_line_of_only_copies_refuses(session, trusting) -> None:
    place, victim = session("copy")
    place.deliver()
    assert place.remove()[0] == 2
    log = place.place.only_copies
    write(victim, b"other content under the old name")
    lines = log.read_bytes().splitlines(keepends=True)
    for number in (1, len(lines)):
        damaged = lines[:]
        damaged[number - 1] = damaged[number - 1].replace(b'"sha256":"', b'"sha256":"f', 1)
        log.write_bytes(b"".join(damaged))
        with pytest.raises(LadingError, match=f"{log}, line {number} is damaged"):
            place.deliver()
    body = place.client.get_object(Bucket=place.bucket, Key=f"{place.job.prefix}/behavior/deep/trials.csv")["Body"]
    assert body.read() == b"trial,choice\n" * 50


@pytest.mark.long
def test_another_spelling_of_an_only_copys_name_is_the_same_object(session, trusting) -> None:
    place, _ = session("copy")
    source = place.job.modalities[0].source
    write(Path(os.fsdecode(os.fsencode(source) + b"/odd\xff")), b"the only copy")
    place.deliver()
    assert place.remove()[0] == 3
    write(source / "odd%FF", b"another day")
    with pytest.raises(LadingError, match="is the only copy of deleted sources"):
        place.deliver()


@pytest.mark.parametrize("kind", mostly_long(["copy", "direct", "zip"], "direct"))
def test_another_state_root_replaces_nothing(session, s3, tmp_path: Path, kind: str, trusting) -> None:
    """Only the state root that deleted a source knows it; ``force_cloud_sync`` adds, and does not replace."""
    place, victim = session(kind)
    victim.write_bytes(b"the only copy")
    place.deliver()
    assert place.remove()[0] == 2
    before = bodies(place)
    write(victim, b"another day.")
    source = place.job.modalities[0].source
    cells = {"direct": {"skip_staging": "TRUE"}, "zip": {"compress_raw_data": "TRUE"}}.get(kind, {})
    other = Session(tmp_path / "other", s3.endpoint, place.bucket, {"behavior": (source, cells)})
    other.job = other.job.model_copy(update={"force_cloud_sync": True})
    other.step("check_s3_folder_exists")
    for _ in range(2):
        with pytest.raises(LadingError, match="would be replaced by other content, but this list did not put it there"):
            other.deliver()
    assert bodies(other) == before
    if kind != "zip":  # adding is no replacing, and what it added itself it may replace
        victim.rename(victim.with_name("new"))
        other.deliver()
        victim.with_name("new").write_bytes(b"newer")
        other.deliver()
        assert bodies(other)[f"{other.job.prefix}/behavior/deep/new"] == b"newer"
    cells = {f"modality0.{name}": cell for name, cell in cells.items()} | {"upload_data_to_s3.replace_others": "TRUE"}
    header = ["platform", "subject_id", "acq_datetime", "s3_bucket", "modality0", "modality0.source", *cells]
    row = ["ecephys", "1000", "2024-05-27 16:07:00", place.bucket, "behavior", str(source), *cells.values()]
    (other.job,) = parsed(",".join(header) + "\n" + ",".join(row) + "\n").jobs
    write(victim, b"another day.")
    other.deliver()
    assert len(bodies(other)) >= len(before)
    assert bodies(other) != before


def bodies(place: Session) -> Mapping[str, bytes]:
    objects: Iterable[dict[str, Any]] = place.client.list_objects_v2(Bucket=place.bucket).get("Contents", ())
    get = place.client.get_object
    return {item["Key"]: get(Bucket=place.bucket, Key=item["Key"])["Body"].read() for item in objects}


@pytest.mark.parametrize("kind", mostly_long(["zip", "SPIM", "ecephys"], "zip"))
def test_a_compression_of_an_earlier_version_frees_nothing(session, kind: str, trusting) -> None:
    """Its lineage says of no file that something lacks, and not that anybody looked."""
    place, _ = session(kind)
    place.deliver()
    (path,) = place.place.lineage.glob("*.jsonl")
    text = path.read_text()
    assert ', "coverage": 1' in text
    path.write_text(text.replace(', "coverage": 1', ""))
    removed, kept = place.remove()
    assert (removed, len(kept)) == (0, len(place.files()))
    assert (
        "an earlier version of Lading compressed it, which did not account for every byte; compress it again" in kept[0]
    )
    path.write_text(text)
    assert place.remove()[1] == []


def test_the_steps_end_says_what_stays(single: Session) -> None:
    """A step that leaves a file waiting is no success."""
    single.deliver()
    source = single.job.modalities[0].source
    note_earlier(single, source, "", source.name)
    shutil.move(source.parent, source.parent.with_name("unmounted"))
    settings = {"skip_task": False, "job_settings": {"dry_run": False}}
    task = single.job.task("remove_source_folders").model_copy(update=settings)
    job = single.job.model_copy(update={"tasks": {"remove_source_folders": {"": task}}})
    with pytest.raises(LadingError, match="0 source files were deleted, 1 stay"):
        steps.find("remove_source_folders", dry_run=False)(single.work("remove_source_folders", job=job))
