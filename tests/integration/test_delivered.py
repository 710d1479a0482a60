"""A job is done only when what it sent is what its tasks had made: whatever vanished or changed between the two."""

import shutil
import threading
from itertools import product
from pathlib import Path

import pytest

from lading.sessions.job_runner import run_job
from lading.sessions.result import JobResult
from tests.conftest import mostly_long
from tests.deleting import Session
from tests.integration.test_deletion import alter, in_process, session, write

__all__ = ["in_process", "session"]


def run(place: Session, until: str = "") -> JobResult:
    return run_job(place.job, place.settings, threading.Event(), until=until)


def staged(place: Session) -> list[Path]:
    """The data files of the modality in the staging folder, the largest first; its report says when it was made."""
    found = (place.staged / place.job.modalities[0].folder).rglob("*")
    files = [path for path in found if path.is_file() and path.name != "compress.json"]
    return sorted(files, key=lambda path: -path.stat().st_size)


def bodies(place: Session) -> dict[str, bytes]:
    objects = place.client.list_objects_v2(Bucket=place.bucket).get("Contents", ())
    get = place.client.get_object
    return {item["Key"].split("/", 1)[1]: get(Bucket=place.bucket, Key=item["Key"])["Body"].read() for item in objects}


@pytest.mark.parametrize(
    ("kind", "how"),
    mostly_long(product(["copy", "zip", "ecephys"], ["gone", "altered"]), ("copy", "gone"), ("zip", "altered")),
)
def test_a_staged_file_that_changed_before_the_upload_is_made_again(session, kind: str, how: str) -> None:
    place, _ = session(kind)
    assert run(place, "compress_data").state == "done"
    victim = staged(place)[0]
    whole = victim.read_bytes()
    if how == "gone":
        victim.unlink()
    else:
        alter(victim, stamps="kept")
    failed = run(place)
    assert (failed.state, failed.task) == ("failed", "upload_data_to_s3")
    assert str(victim.relative_to(place.staged)) in failed.message
    assert "compress_data will be repeated" in failed.message
    assert place.staged.is_dir()
    again = run(place)
    assert again.state == "done", again.message
    sent = bodies(place)[str(victim.relative_to(place.staged))]
    assert sent == whole or kind == "zip"  # a zip says when it was made


def test_a_cleaner_that_took_every_staged_file_is_noticed(session) -> None:
    place, victim = session("copy")
    run(place, "compress_data")
    for path in staged(place):
        path.unlink()
    assert run(place).state == "failed"
    # As long as the source is away, nothing is called done.
    source = place.job.modalities[0].source
    source.rename(source.with_name("away"))
    source.mkdir()
    failed = run(place)
    assert (failed.state, failed.task) == ("failed", "compress_data")
    source.rmdir()
    source.with_name("away").rename(source)
    assert run(place).state == "done"
    assert victim.read_bytes() in bodies(place).values()


@pytest.mark.parametrize("how", ["unmounted", "gone", "altered"])
def test_a_source_that_changed_before_it_was_sent_directly_is_noticed(session, how: str) -> None:
    place, victim = session("direct")
    assert run(place, "compress_data").state == "done"
    source = place.job.modalities[0].source
    if how == "unmounted":
        source.rename(source.with_name("disk"))
        source.mkdir()
    elif how == "gone":
        victim.rename(source.with_name("kept"))
    else:
        alter(victim, stamps="kept")
    failed = run(place)
    assert (failed.state, failed.task) == ("failed", "upload_data_to_s3")
    assert (str(source) if how == "unmounted" else "behavior/deep/trials.csv") in failed.message
    if how == "unmounted":
        failed = run(place)
        assert (failed.state, failed.task) == ("failed", "compress_data")
        assert "is its file system mounted here?" in failed.message
        source.rmdir()
        source.with_name("disk").rename(source)
    elif how == "gone":
        source.with_name("kept").rename(victim)
    assert run(place).state == "done"
    assert bodies(place)["behavior/deep/trials.csv"] == victim.read_bytes()


@pytest.mark.parametrize("name", ["derivatives/x.bin", "data_description.json", "processing.json"])
def test_what_no_modality_owns_is_compared_too(session, tmp_path: Path, name: str) -> None:
    place, _ = session("copy")
    write(tmp_path / "derived" / "x.bin", b"derived")
    place.job = place.job.model_copy(update={"derivatives_dir": tmp_path / "derived"})
    assert run(place, "check_metadata_files").state == "done"
    (place.staged / name).unlink()
    failed = run(place)
    assert (failed.state, failed.task) == ("failed", "upload_data_to_s3")
    assert name in failed.message
    assert run(place).state == "done"
    assert name in bodies(place)


def test_a_job_that_an_earlier_version_staged_goes_on(session) -> None:
    """It has no inventory: only what has records is compared."""
    place, _ = session("direct")
    run(place, "compress_data")
    shutil.rmtree(place.place.inventory)
    assert run(place).state == "done"
