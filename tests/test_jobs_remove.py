"""Which sources may go: none that the bucket is not proven to hold, whatever was run, skipped or changed."""

from pathlib import Path

from lading.formats.manifest import read_manifest, write_manifest
from tests.test_jobs_run import arguments, place, place_in, write_list

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
