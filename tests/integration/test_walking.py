"""Nothing below a source is passed over unsaid: links to directories, and directories that cannot be listed."""

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from lading.core.errors import LadingError
from lading.sessions import inputs, presets
from lading.sessions.journal import JobState
from lading.sessions.provenance import SourceRecord
from lading.sessions.source_tree import SourceTree
from lading.sessions.state_paths import paths_of
from lading.sessions.task_context import RunSettings, TaskContext
from lading.sessions.tasks import transform
from lading.sessions.tasks import upload_tasks as ship
from tests.unit.sessions.test_table import parsed


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source with a folder, a link to a folder elsewhere and a folder that will not be listed."""
    top = tmp_path / "source"
    for name in ("deep", "locked"):
        (top / name).mkdir(parents=True)
        (top / name / "a.bin").write_bytes(b"1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.bin").write_bytes(b"2")
    (top / "alias").symlink_to(tmp_path / "elsewhere")
    return top


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> None:
    """No directory named ``locked`` can be listed, also by root."""
    scandir, listdir = os.scandir, os.listdir

    def deny(path: Any) -> None:
        if os.fspath(path).endswith("locked"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "scandir", lambda path=".": deny(path) or scandir(path))
    monkeypatch.setattr(os, "listdir", lambda path=".": deny(path) or listdir(path))


def test_deletion_names_what_it_did_not_look_into(source: Path, locked: None) -> None:
    tree = SourceTree(source, lambda: None)
    known = {tree.real_path(SourceRecord("deep/a.bin", 1, None, None, 0, "k"))}
    assert dict(tree.others(known)) == {
        f"{source}/alias": "it is a link to a directory",
        f"{source}/locked": "what is in it cannot be listed: Permission denied",
    }
    tree.close()


def work_of(tmp_path: Path, source: Path) -> TaskContext:
    header = "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source,modality0.skip_staging"
    (job,) = parsed(f"{header}\nbehavior,1,2020-10-10 14:10:10,b-1,behavior,{source},TRUE\n").jobs
    place = paths_of(tmp_path / "runs", job.s3_bucket, job.prefix).create()
    settings = RunSettings(state_root=tmp_path / "runs")
    return TaskContext(job, place, settings, "t", "", JobState(), threading.Event(), lambda text: said.append(text))


said: list[str] = []


def test_a_source_that_cannot_be_listed_is_not_sent_from_where_it_is(
    source: Path, tmp_path: Path, locked: None
) -> None:
    (source / "alias").unlink()  # a link would decide before
    with pytest.raises(LadingError, match=r"modality0: .*locked cannot be read: Permission denied"):
        transform.settle(work_of(tmp_path, source))


def test_a_preview_counts_links_that_are_not_sent(source: Path, locked: None) -> None:
    (source / "lost").symlink_to("nowhere")
    count, size, left_out, faults = ship._count(source)
    assert (count, size) == (1, 1)
    assert sorted(left_out) == [f"{source}/alias", f"{source}/lost"]
    assert faults == [f"{source}/locked (Permission denied)"]


def test_links_that_a_script_leaves_are_named_and_what_cannot_be_listed_fails(source: Path, locked: None) -> None:
    left_out: list[str] = []
    with pytest.raises(LadingError, match="locked cannot be read"):
        list(transform._written(source, left_out))
    (source / "locked").rename(source / "open")
    left_out.clear()
    written = list(transform._written(source, left_out))
    assert sorted(written) == [source / "deep" / "a.bin", source / "open" / "a.bin"]
    assert left_out == [f"{source}/alias"]


def test_prepared_metadata_and_presets_that_cannot_be_listed_are_an_error(tmp_path: Path, locked: None) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    (folder / "rig.json").write_text("{}")
    with pytest.raises(PermissionError):
        inputs.json_files(folder)
    top = tmp_path / "presets" / "job_types" / "v2"
    (top / "locked").mkdir(parents=True)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "compress_data.json").write_text("{}")
    (top / "kind").symlink_to(tmp_path / "shared")
    store = presets.PresetDirectory(tmp_path / "presets")
    with pytest.raises(LadingError, match=r"locked cannot be read: Permission denied"):
        list(store.parameters("job_types/v2"))
    (top / "locked").rename(top / "open")
    assert [key for key, _, _ in store.parameters("job_types/v2")] == ["job_types/v2/kind/compress_data"]
