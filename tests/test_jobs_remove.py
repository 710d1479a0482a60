"""Which sources may go: none that the bucket is not proven to hold, whatever was run, skipped or changed."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from jobs.lineage import Copied, Proven, Transformed, removable, write_transformed
from lading.formats.manifest import read_manifest, write_manifest
from tests.test_jobs_run import arguments, finished, place, place_in, write_list

__all__ = ["place"]
DELETION = ",remove_source_folders.skip_task,remove_source_folders.dry_run"


def files_of(session: Path) -> list[str]:
    return sorted(str(file.relative_to(session)) for file in session.rglob("*") if file.is_file())


def test_an_upload_that_is_not_proven_whole_frees_nothing(place, bucket: str, tmp_path: Path, run) -> None:
    """The zip of a compressed modality was not proven, and the upload is then skipped: its source stays."""
    more = f",modality0.compress_raw_data,upload_data_to_s3.skip_task{DELETION}"
    path = write_list(tmp_path, bucket, 1, more, ",TRUE,FALSE,FALSE,FALSE")
    before = files_of(tmp_path / "session 0")
    assert run(*arguments(path, place, "--until", "upload_data_to_s3")).returncode == 0
    shipment = place_in(path, bucket).shipment("staged") / "manifest.jsonl.zst"
    found = read_manifest(shipment)
    rows = [row for row in found.rows() if not row.path.endswith("behavior.zip")]
    assert len(rows) == found.end.objects - 1
    write_manifest(shipment, found.header, rows, complete=False)
    path.write_text(path.read_text().replace(",TRUE,FALSE,FALSE,FALSE", ",TRUE,TRUE,FALSE,FALSE"))
    result = run(*arguments(path, place))
    assert result.returncode == 3
    assert "does not prove every object that was to be sent, so no source may go" in result.stdout
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


def write_lineage(directory: Path, **changed: object) -> tuple[Path, dict[str, Proven]]:
    """A lineage of one source in a compressed folder, and a bucket that holds it."""
    source = directory / "samples.bin"
    source.write_bytes(b"12345")
    status = source.stat()
    report = Copied("compress.json", "ecephys/compress.json", 3, 7, "aa")
    noted = Transformed("ecephys", ((str(source), status.st_size, status.st_mtime_ns),), report)
    write_transformed(directory / "ecephys.json", replace(noted, **changed))
    return directory / "ecephys.json", {"ecephys/a": Proven(1, "bb", 1), report.key: Proven(3, "aa", 9)}


def test_objects_of_another_compression_free_nothing(tmp_path: Path) -> None:
    lineage, proven = write_lineage(tmp_path)
    assert [source.path for source in removable(lineage, proven, proven)[0]] == [str(tmp_path / "samples.bin")]
    for other in (Proven(3, "ab", 7), Proven(4, "aa", 7), Proven(3, None, 9)):
        free, kept = removable(lineage, proven | {"ecephys/compress.json": other}, proven)
        assert free == []
        assert kept[0].endswith("ecephys/compress.json in the bucket is of another compression than the last one")
    alone = {"ecephys/a": proven["ecephys/a"]}
    assert removable(lineage, alone, alone)[0] == []
    record = json.loads(lineage.read_text())
    del record["report"]
    lineage.write_text(json.dumps(record))
    assert removable(lineage, proven, proven)[0] == []
