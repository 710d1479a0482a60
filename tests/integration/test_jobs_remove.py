"""Which sources may go: none that the bucket is not proven to hold, whatever was run, skipped or changed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from lading.compress.lossless_check import not_preserved
from lading.verification.manifest import read_manifest, write_manifest
from tests.integration.test_jobs_run import arguments, client, finished, place, place_in, write_list

__all__ = ["place"]
DELETION = ",remove_source_folders.skip_task,remove_source_folders.dry_run"


def write_samples(folder: Path) -> None:
    np.arange(40000, dtype="<i2").tofile(folder / "samples.bin")
    (folder / "probe.recording.yaml").write_text("channels: 4\nsampling_frequency: 1000\nfiles: samples.bin\n")


def files_of(session: Path) -> list[str]:
    return sorted(str(file.relative_to(session)) for file in session.rglob("*") if file.is_file())


def test_an_upload_that_is_not_proven_whole_frees_nothing(place, bucket: str, tmp_path: Path, run) -> None:
    """The zip of a compressed modality was not proven, and the upload is then skipped: its source stays."""
    more = f",modality0.compress_raw_data,upload_data_to_s3.skip_task{DELETION}"
    path = write_list(tmp_path, bucket, 1, more, ",TRUE,FALSE,FALSE,FALSE")
    before = files_of(tmp_path / "session 0")
    assert run(*arguments(path, place, "--until", "upload_data_to_s3")).returncode == 0
    shipment = place_in(path, bucket).upload_unit("staged") / "manifest.jsonl.zst"
    found = read_manifest(shipment)
    rows = [row for row in found.rows() if not row.path.endswith("behavior.zip")]
    assert len(rows) == found.end.objects - 1
    write_manifest(shipment, found.header, rows, complete=False)
    path.write_text(path.read_text().replace(",TRUE,FALSE,FALSE,FALSE", ",TRUE,TRUE,FALSE,FALSE"))
    result = run(*arguments(path, place))
    assert result.returncode == 3
    assert "does not list every object that was to be sent, so no source may be deleted" in result.stdout
    assert files_of(tmp_path / "session 0") == before


def test_a_source_that_grew_after_the_upload_stays_though_staging_is_lost(place, bucket: str, tmp_path, run) -> None:
    """Nothing is compressed or sent anew, so the recording is told from what was uploaded; the record is whole."""
    path = write_list(tmp_path, bucket, 1, f",modality0.compress_raw_data{DELETION}", ",TRUE,FALSE,FALSE")
    session = tmp_path / "session 0"
    assert run(*arguments(path, place, "--until", "upload_data_to_s3")).returncode == 0
    job = place_in(path, bucket)
    shutil.rmtree(job.staging.read_text())
    changed = session / "behavior" / "trials.csv"
    changed.write_text(changed.read_text() + "more\n")
    result = run(*arguments(path, place))
    assert result.returncode == 3
    assert f"{changed}: it changed since it was read" in result.stdout
    assert files_of(session) == ["behavior/rig notes.txt", "behavior/trials.csv"]
    assert (finished(job)["compress_data"], finished(job)["upload_data_to_s3"]) == (2, 1)
    (record,) = job.records.rglob("*.json")
    assert json.loads(record.read_text())["data_description"]


EPHYS = {"clip": True, "accept_sizes": False, "bits_per_sample": None}
LOSSLESS = {"streams": [{"name": "s", "lossless": True}], "coverage": 1}
STACK = {"images": [{"path": "a", "format": "tiff"}], "coverage": 1}
LOST = {"streams": [{"name": "s", "lossless": False}], "coverage": 1}


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        ({"data": "generic"}, ""),
        ({"data": "ephys", "options": EPHYS, "facts": LOSSLESS}, ""),
        ({"data": "ephys", "options": EPHYS | {"clip": False}, "facts": LOSSLESS}, "no_clip"),
        ({"data": "ephys", "options": EPHYS | {"accept_sizes": True}, "facts": LOSSLESS}, "accept_sizes"),
        ({"data": "ephys", "options": EPHYS, "facts": LOST}, "with loss"),
        ({"data": "ephys", "options": EPHYS, "facts": {"coverage": 1}}, "with loss"),
        ({"data": "ephys", "options": EPHYS, "facts": {"streams": LOSSLESS["streams"]}}, "an earlier version"),
        ({"data": "ephys", "options": EPHYS}, "an earlier version"),
        ({"data": "video", "facts": {"preset": "none", "frames": {}}}, ""),
        ({"data": "video", "facts": {"preset": "gamma", "frames": {"a.mp4": 7}}}, "a.mp4 was transcoded"),
        ({"data": "video"}, "was transcoded"),
        ({"data": "imaging", "facts": {"images": [{"path": "a", "format": "hdf5"}]}}, "hdf5 source"),
        ({"data": "imaging", "facts": {"images": [{"path": "a"}]}}, "unknown source"),
        ({"data": "imaging", "facts": {"images": [{"path": "a", "format": "tiff"}]}}, "an earlier version"),
        ({"data": "imaging", "options": {"allow_gaps": True}, "facts": STACK}, "allow_gaps"),
        ({"data": "else"}, "it is not known"),
    ],
)
def test_what_a_compression_carries(report: dict[str, object], reason: str) -> None:
    found = not_preserved(report, ())
    assert (reason in found) if reason else found == ""


@pytest.mark.parametrize(
    ("more", "tag"),
    [
        ({}, ""),
        ({"compression": "zlib", "predictor": True, "tile": (16, 16)}, ""),
        ({"software": "SI.hRoiManager.scanZoomFactor = 1.7"}, "Software"),
        ({"photometric": "miniswhite"}, "PhotometricInterpretation"),
        ({"extratags": [(280, "H", 1, 4711, True)]}, "MinSampleValue"),
        ({"description": '{"shape": "laser at 12 mW"}', "metadata": None}, "ImageDescription"),
        ({"description": "laser at 12 mW"}, "ImageDescription"),
        ({"imagej": True}, "ImageDescription"),
        ({"ome": True}, "ImageDescription"),
        ({"resolution": (0.5, 0.5)}, "XResolution"),
        ({"datetime": True}, "DateTime"),
        ({"extratags": [(65000, "s", 0, "stage at 3, 4", False)]}, "65000"),
    ],
)
def test_tiff_goes_only_when_its_tags_say_nothing_but_voxels(tmp_path: Path, more: dict, tag: str) -> None:
    path = tmp_path / "plane.tif"
    tifffile.imwrite(path, np.zeros((3, 16, 16), "u2"), **({"photometric": "minisblack"} | more))
    (tmp_path / ".hidden.tif").write_bytes(b"copied as it is")
    (tmp_path / "notes.txt").write_bytes(b"copied as it is")
    report = {"data": "imaging", "facts": {"images": [{"path": "a", "format": "tiff"}], "coverage": 1}}
    found = not_preserved(report, map(str, tmp_path.iterdir()))
    assert (f"{path} says more than voxels ({tag}" in found) if tag else found == ""


def test_tiff_with_bytes_behind_or_a_page_of_another_size_stays(tmp_path: Path) -> None:
    report = {"data": "imaging", "facts": {"images": [{"path": "a", "format": "tiff"}], "coverage": 1}}
    path = tmp_path / "plane.tif"
    tifffile.imwrite(path, np.zeros((16, 16), "u2"), photometric="minisblack")
    path.write_bytes(path.read_bytes() + b"protocol 4711")
    assert "to which nothing points" in not_preserved(report, [str(path)])
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((16, 16), "u2"), metadata=None)
        writer.write(np.zeros((8, 8), "u2"), metadata=None)
    assert "page 1, which has another shape or type" in not_preserved(report, [str(path)])


def test_tiff_with_further_images_inside_stays(tmp_path: Path) -> None:
    path = tmp_path / "plane.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(np.zeros((16, 16), "u2"), subifds=1)
        writer.write(np.zeros((8, 8), "u2"), subfiletype=1)
    report = {"data": "imaging", "facts": {"images": [{"path": "a", "format": "tiff"}], "coverage": 1}}
    assert "says more than voxels (SubIFDs)" in not_preserved(report, [str(path)])


@pytest.mark.long
def test_a_recording_without_its_clipped_copy_stays(place, bucket: str, tmp_path: Path, run) -> None:
    session, whole = tmp_path / "record", tmp_path / "whole"
    for folder in (session, whole):
        folder.mkdir()
        (folder / "events.csv").write_text("0.5,lick\n")
        write_samples(folder)
    path = tmp_path / "list.csv"
    path.write_text(
        f"platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source,modality0.no_clip,"
        f"modality1,modality1.source{DELETION}\n"
        f"ecephys,1000,2024-05-27 16:07:00,{bucket},ecephys,{session},TRUE,ecephys,{whole},FALSE,FALSE\n"
    )
    result = run(*arguments(path, place))
    assert result.returncode == 3, result.stdout + result.stderr
    assert "3 source files were deleted, 3 stay" in result.stdout
    assert (
        "without the clipped copy (no_clip) events, settings and times of the recording have no object" in result.stdout
    )
    assert len(files_of(session)) == 3
    assert not whole.exists()

    path.write_text(
        "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source,modality0.no_clip"
        f"{DELETION},remove_source_folders.accept_loss\n"
        f"ecephys,1000,2024-05-28 16:07:00,{bucket},ecephys,{session},TRUE,FALSE,FALSE,TRUE\n"
    )
    result = run(*arguments(path, place))
    assert result.returncode == 0, result.stdout + result.stderr
    assert not session.exists(), "who accepts the loss has it"


@pytest.mark.parametrize("kind", ["ephys", "imaging", "video", "generic"])
def test_linked_folders_are_refused_by_every_kind(tmp_path: Path, run, kind: str) -> None:
    """Followed they would be sent twice or round in circles; left out they would be missing from what is whole."""
    (tmp_path / "source" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "events.csv").write_text("0.5,lick")
    (tmp_path / "source" / "notes.txt").write_text("as it is")
    write_samples(tmp_path / "source")
    tifffile.imwrite(tmp_path / "source" / "plane.tif", np.zeros((16, 16), "u2"))
    links = [tmp_path / "source" / name for name in ("deep/link", "link")]
    for link in links:
        link.symlink_to(tmp_path / "elsewhere")
    state = tmp_path / "state"
    result = run(
        "-m", "jobs", "compress", tmp_path / "source", tmp_path / "out", "--kind", kind, "--engine", "local",
        "--workers", 1, "--state", state,
    )  # fmt: skip
    assert result.returncode == 1, result.stdout + result.stderr
    assert all(f"error: {link}: is a link to a directory" in result.stderr for link in links)


def test_a_file_behind_a_link_is_copied_and_stays(place, bucket: str, tmp_path: Path, run) -> None:
    """Even where the link leads into another source of the row: the file there is judged by its own modality."""
    path = write_list(tmp_path, bucket, 1, DELETION, ",FALSE,FALSE")
    session = tmp_path / "session 0"
    (session / "behavior" / "link").symlink_to(session / "videos")
    inside = session / "videos" / "face.avi"
    assert run(*arguments(path, place, "--until", "remove_staging_folder")).returncode == 0
    key = "behavior_1000_2024-05-27_16-07-00/behavior-videos/face.avi"
    client(place).delete_object(Bucket=bucket, Key=key)
    result = run(*arguments(path, place))
    assert result.returncode == 3
    assert inside.exists(), "its own object is gone"
    assert files_of(session) == ["videos/face.avi"]
    kept = json.loads((place_in(path, bucket).directory / "removable.json").read_text())["kept"]
    behind = session / "behavior" / "link" / "face.avi"
    assert f"{behind} stays: it is not a regular file inside the source of behavior" in kept
