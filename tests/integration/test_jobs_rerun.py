"""A list that is run again after something in it, or around it, was changed: what is to be done now is done."""

import json
from pathlib import Path

import pytest

from lading.sessions.journal import read_state
from tests.integration.test_jobs_run import arguments, client, finished, listed, place, place_in, write_list
from tests.servers.web import serve

__all__ = ["place"]
PREFIX = "behavior_1000_2024-05-27_16-07-00"


@pytest.mark.long
def test_a_task_that_is_no_longer_skipped_is_done(place, bucket: str, tmp_path: Path, run) -> None:
    more = ",upload_data_to_s3.skip_task,update_docdb_record.skip_task"
    path = write_list(tmp_path, bucket, 1, more, ",TRUE,TRUE")
    assert run(*arguments(path, place)).returncode == 0
    assert "was done before" in run(*arguments(path, place)).stdout
    assert listed(place, bucket) == {}
    text = path.read_text()
    path.write_text(text.replace(",TRUE,TRUE", ",FALSE,TRUE"))
    sent = run(*arguments(path, place))
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert len(listed(place, bucket)) == 7
    assert not (place_in(path, bucket).directory / "staged").exists()
    # The record is written now, as the bucket has it: the staging folder is gone.
    path.write_text(text.replace(",TRUE,TRUE", ",FALSE,FALSE"))
    recorded = run(*arguments(path, place))
    assert recorded.returncode == 0, recorded.stdout + recorded.stderr
    assert json.loads((tmp_path / "runs" / "records" / f"{PREFIX}.json").read_text())["data_description"]
    counts = finished(place_in(path, bucket))
    assert (counts["upload_data_to_s3"], counts["update_docdb_record"], counts["compress_data"]) == (2, 2, 4)
    assert "was done before" in run(*arguments(path, place)).stdout


@pytest.mark.long
def test_a_domain_that_was_added_afterwards(place, bucket: str, tmp_path: Path, run) -> None:
    more = ",codeocean_domain,codeocean_api_token,codeocean_trigger_capsule_id"
    path = write_list(tmp_path, bucket, 1, more, ",,,")
    assert run(*arguments(path, place)).returncode == 0

    def answer(request):
        return 200, {"id": "asset-1" if request.path.endswith("/data_assets") else "run-1", "state": "running"}

    with serve(answer) as web:
        path.write_text(path.read_text().rstrip("\n").removesuffix(",,,") + f",{web.url},t0ken,capsule-1\n")
        result = run(*arguments(path, place))
        assert result.returncode == 0, result.stdout + result.stderr
        assert "was done before" in run(*arguments(path, place)).stdout
    assert len(web.of("POST", "/api/v1/data_assets")) == 1
    assert len(web.of("POST", "/api/v1/computations")) == 1
    state = read_state(place_in(path, bucket).journal)
    assert set(state.task("codeocean_pipeline_settings").facts["runs"]) == {"trigger"}
    record = json.loads((tmp_path / "runs" / "records" / f"{PREFIX}.json").read_text())
    assert record["other_identifiers"] == {"Code Ocean": ["asset-1"]}
    assert record["data_description"]
    assert finished(place_in(path, bucket))["upload_data_to_s3"] == 1
    assert client(place).list_objects_v2(Bucket=bucket)["KeyCount"] == 7
