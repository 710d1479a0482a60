"""Jobs carried the whole way against a real S3 server: done, failed, interrupted, killed, proven, deleted."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import boto3
import numpy as np
import pytest
import pyzipper

from lading.core.atomic import read_log
from lading.sessions import job_runner as workflow
from lading.sessions.journal import read_state
from lading.sessions.metadata import SCHEMAS, faults
from lading.sessions.state_paths import JobPaths, paths_of
from lading.sessions.vocabulary import TASKS
from lading.testing.lab_sessions import make_sessions, write_behavior
from tests.conftest import ODD_NAMES, REPOSITORY
from tests.integration.test_jobs_remote import smtp
from tests.servers.web import serve

__all__ = ["smtp"]
PRESETS = REPOSITORY / "jobs" / "example" / "presets"
HEADER = "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source,modality1,modality1.source"


@pytest.fixture
def place(s3, bucket: str, tmp_path: Path):
    """The S3 server with a bucket of this test's own."""
    s3.make_bucket(bucket)
    return s3


def client(server):
    return boto3.client("s3", endpoint_url=server.endpoint)


def listed(server, bucket: str) -> dict[str, int]:
    pages = client(server).get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", [])}


def write_list(directory: Path, bucket: str, rows: int = 1, more: str = "", cells: str = "") -> Path:
    """A list of ``rows`` behaviour sessions, each with two modalities of its own."""
    lines = [HEADER + more]
    for number in range(rows):
        folder = directory / f"session {number}"
        write_behavior(folder / "behavior", folder / "videos", np.random.default_rng(number))
        when = f"2024-05-27 16:07:{number:02d}"
        lines.append(
            f"behavior,{1000 + number},{when},{bucket},behavior,{folder / 'behavior'},"
            f"behavior-videos,{folder / 'videos'}{cells}"
        )
    path = directory / "list.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def arguments(path: Path, server, *more: str) -> list[str]:
    state = path.parent / "runs"
    return [
        "-m", "jobs", "run", str(path), "--endpoint-url", server.endpoint, "--state", str(state), "--cores", "1",
        "--max-workers", "4", *more,
    ]  # fmt: skip


def place_in(path: Path, bucket: str, number: int = 0) -> JobPaths:
    return paths_of(path.parent / "runs", bucket, f"behavior_{1000 + number}_2024-05-27_16-07-{number:02d}")


def finished(place: JobPaths) -> Counter:
    events = [event for event in read_log(place.journal) if event and event["event"] == "task"]
    return Counter(event["task"] for event in events if event["state"] in ("finished", "skipped"))


def test_a_list_with_bad_rows_does_the_good_one(place, bucket: str, tmp_path: Path, run) -> None:
    path = write_list(tmp_path, bucket, rows=3)
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace("session 1", "session gone")
    lines[3] = lines[3].replace("behavior,1002", "behaviour-box,1002")
    path.write_text("\n".join(lines))
    result = run(*arguments(path, place))
    assert result.returncode == 3, result.stdout + result.stderr
    assert "1 done, 1 failed, 1 refused" in result.stdout
    assert "session gone/behavior does not exist" in result.stdout
    assert "4:1: platform: 'behaviour-box' is not a platform" in result.stdout
    objects = listed(place, bucket)
    assert {key.split("/")[0] for key in objects} == {"behavior_1000_2024-05-27_16-07-00"}
    top = "behavior_1000_2024-05-27_16-07-00/"
    assert {key.removeprefix(top) for key in objects} == {
        "behavior/trials.csv", "behavior/rig notes.txt", "behavior-videos/face.avi", "behavior-videos/body.mp4",
        "data_description.json", "processing.json", "metadata.nd.json",
    }  # fmt: skip
    for key in objects:
        if key.endswith(".json"):
            content = json.loads(client(place).get_object(Bucket=bucket, Key=key)["Body"].read())
            assert key.removeprefix(top) in SCHEMAS
            assert faults(key.removeprefix(top), content) == []
    state = read_state(place_in(path, bucket).journal)
    assert (state.state, state.attempts) == ("done", 1)
    assert [name for name, _ in state.tasks if name != "compress_data"] == [
        task for task in TASKS if task not in ("compress_data", "run_codeocean_pipeline")
    ]
    assert not (place_in(path, bucket).directory / "staged").exists()
    # Again: nothing is done twice, and the mended row goes on from where it failed.
    path.write_text("\n".join(lines).replace("session gone", "session 1").replace("behaviour-box", "behavior"))
    again = run(*arguments(path, place))
    assert again.returncode == 0, again.stdout + again.stderr
    assert "3 done" in again.stdout
    assert finished(place_in(path, bucket))["upload_data_to_s3"] == 1


def test_an_existing_prefix_is_refused_but_not_its_sibling(place, bucket: str, tmp_path: Path, run) -> None:
    path = write_list(tmp_path, bucket)
    prefix = "behavior_1000_2024-05-27_16-07-00"
    client(place).put_object(Bucket=bucket, Key=f"{prefix}_processed/a", Body=b"x")
    assert run(*arguments(path, place, "--until", "check_s3_folder_exists")).returncode == 0
    client(place).put_object(Bucket=bucket, Key=f"{prefix}/a", Body=b"x")
    state = place_in(path, bucket)
    workflow.retry(state)
    refused = run(*arguments(path, place, "--until", "check_s3_folder_exists"))
    assert refused.returncode == 3
    assert f"s3://{bucket}/{prefix}/ exists" in refused.stdout
    forced = run(*arguments(path, place, "--until", "check_s3_folder_exists", "--force-cloud-sync"))
    assert forced.returncode == 0, forced.stdout


def test_a_dry_run_sends_nothing_and_counts_for_nothing(place, bucket: str, tmp_path: Path, run) -> None:
    path = write_list(
        tmp_path, bucket, 1,
        ",codeocean_domain,codeocean_api_token,codeocean_trigger_capsule_id",
        ",https://co.example.org,s3cret-t0ken,capsule-1",
    )  # fmt: skip
    result = run(*arguments(path, place, "--dry-run"))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "would send 7 files" in result.stdout
    assert "would post to https://co.example.org/api/v1/computations" in result.stdout
    assert "s3cret-t0ken" not in result.stdout + result.stderr
    assert listed(place, bucket) == {}
    assert read_state(place_in(path, bucket).journal).state == "queued"


def test_cancelled_before_it_began_and_retried(place, bucket: str, tmp_path: Path, run) -> None:
    path = write_list(tmp_path, bucket)
    job = place_in(path, bucket)
    workflow.request_cancel(job)
    assert "cancelled before it began" in run(*arguments(path, place)).stdout
    assert read_state(job.journal).state == "cancelled"
    assert run(*arguments(path, place, "--until", "check_metadata_files")).returncode == 0
    assert finished(job)["gather_preliminary_metadata"] == 1
    workflow.retry(job, "gather_preliminary_metadata")
    assert run(*arguments(path, place, "--until", "check_metadata_files")).returncode == 0
    assert finished(job)["gather_preliminary_metadata"] == 2
    assert finished(job)["create_staging_folder"] == 1


@pytest.mark.long
def test_two_runs_at_once_do_a_job_once(place, bucket: str, tmp_path: Path) -> None:
    path = write_list(tmp_path, bucket)
    command = [sys.executable, *arguments(path, place, "--until", "gather_final_metadata")]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=120)[0] for process in pair]
    codes = [process.returncode for process in pair]
    assert 0 in codes, outputs
    assert all(count == 1 for count in finished(place_in(path, bucket)).values() if count != 2), outputs
    if codes != [0, 0]:
        assert "is being worked on elsewhere" in "".join(outputs)


def test_metadata_of_the_service_and_of_the_folder(place, bucket: str, tmp_path: Path, run) -> None:
    (tmp_path / "prepared").mkdir()
    (tmp_path / "prepared" / "procedures.json").write_text(json.dumps({"subject_id": "1000"}))
    (tmp_path / "prepared" / "session_notes.json").write_text('{"note": "as it is"}')
    answers = {"/subject/1000": (406, {"message": "invalid", "data": {"subject_id": "1000", "odd": 1}})}
    with serve(lambda request: answers.get(request.path, (404, {}))) as web:
        more = ",metadata_dir,metadata_service_domain"
        path = write_list(tmp_path, bucket, 1, more, f",{tmp_path / 'prepared'},{web.url}")
        result = run(*arguments(path, place, "--until", "check_metadata_files"))
        assert result.returncode == 0, result.stdout
    assert [request.path for request in web.requests] == ["/subject/1000"]
    staged = place_in(path, bucket).directory / "staged"
    assert json.loads((staged / "subject.json").read_text())["odd"] == 1
    assert json.loads((staged / "session_notes.json").read_text()) == {"note": "as it is"}
    record = json.loads((staged / "metadata.nd.json").read_text())
    assert faults("metadata.nd.json", record) == []
    assert (record["procedures"]["subject_id"], record["subject"]) == ("1000", None)
    state = read_state(place_in(path, bucket).journal)
    assert state.task("gather_final_metadata").facts["left_out"] == ["subject"]
    assert any("subject.json" in fault for fault in state.task("check_metadata_files").facts["invalid"])


@pytest.mark.parametrize(
    ("prepared", "message"),
    [
        ({"subject.json": '{"subject_id": "77"}'}, "is about subject '77'"),
        ({"rig.json": "{"}, "is not JSON"),
    ],
)
def test_metadata_that_stops_a_job(place, bucket: str, tmp_path: Path, run, prepared, message: str) -> None:
    (tmp_path / "prepared").mkdir()
    for name, text in prepared.items():
        (tmp_path / "prepared" / name).write_text(text)
    path = write_list(tmp_path, bucket, 1, ",metadata_dir", f",{tmp_path / 'prepared'}")
    result = run(*arguments(path, place, "--until", "gather_preliminary_metadata"))
    assert result.returncode == 3
    assert message in result.stdout


def test_sources_go_only_where_the_bucket_proves_them(place, bucket: str, tmp_path: Path, run) -> None:
    """One object is damaged after the upload: its source stays, the rest goes, and nothing outside is touched."""
    path = write_list(
        tmp_path, bucket, 1,
        ",modality1.skip_staging,remove_source_folders.skip_task,remove_source_folders.dry_run",
        ",TRUE,FALSE,FALSE",
    )  # fmt: skip
    outside = tmp_path / "outside.txt"
    outside.write_text("not of this session")
    session = tmp_path / "session 0"
    assert run(*arguments(path, place, "--until", "remove_staging_folder")).returncode == 0
    prefix = "behavior_1000_2024-05-27_16-07-00"
    damaged = client(place).get_object(Bucket=bucket, Key=f"{prefix}/behavior/trials.csv")["Body"].read()
    client(place).put_object(Bucket=bucket, Key=f"{prefix}/behavior/trials.csv", Body=b"X" + damaged[1:])
    result = run(*arguments(path, place))
    assert result.returncode == 3
    assert "3 source files were deleted, 1 stay" in result.stdout
    assert [str(file.relative_to(session)) for file in session.rglob("*") if file.is_file()] == ["behavior/trials.csv"]
    assert outside.exists()
    kept = json.loads((place_in(path, bucket).directory / "removable.json").read_text())["kept"]
    assert kept == [
        f"{session / 'behavior' / 'trials.csv'} stays: behavior/trials.csv is not verified to be in the bucket"
    ]


@pytest.mark.long
def test_deletion_lists_first_and_leaves_what_changed(place, bucket: str, tmp_path: Path, run) -> None:
    path = write_list(tmp_path, bucket, 1, ",remove_source_folders.skip_task", ",FALSE")
    session = tmp_path / "session 0"
    before = sorted(session.rglob("*"))
    assert run(*arguments(path, place, "--until", "remove_staging_folder")).returncode == 0
    changed = session / "behavior" / "trials.csv"
    changed.write_text(changed.read_text() + "more\n")
    assert run(*arguments(path, place)).returncode == 0
    assert sorted(session.rglob("*")) == before
    lists = json.loads((place_in(path, bucket).directory / "removable.json").read_text())
    assert len(lists["removable"]) == 3
    assert lists["kept"] == [f"{changed} stays: it changed since it was read"]
    state = read_state(place_in(path, bucket).journal).task("remove_source_folders")
    assert dict(state.facts)["removed"] == 0
    # Said in as many words, the same command deletes what it listed, and sends nothing again.
    header, row = path.read_text().splitlines()
    path.write_text(f"{header},remove_source_folders.dry_run\n{row},FALSE\n")
    result = run(*arguments(path, place))
    assert "3 source files were deleted, 1 stay" in result.stdout, result.stdout
    assert [file for file in session.rglob("*") if file.is_file()] == [changed]
    assert finished(place_in(path, bucket))["upload_data_to_s3"] == 1


def test_those_who_asked_are_told(place, bucket: str, tmp_path: Path, run, smtp) -> None:
    port, messages = smtp
    site = tmp_path / "presets" / "site" / "mail.yaml"
    site.parent.mkdir(parents=True)
    site.write_text(f"mail: {{host: 127.0.0.1, port: {port}, tls: none, sender: lading@example.org}}\n")
    more = ",user_email,email_notification_types,upload_data_to_s3.skip_task"
    path = write_list(tmp_path, bucket, 1, more, ",a@example.org,begin;end;fail;retry,TRUE")
    behavior = tmp_path / "session 0" / "behavior"
    behavior.rename(tmp_path / "away")
    assert run(*arguments(path, place, "--presets", str(tmp_path / "presets"))).returncode == 3
    (tmp_path / "away").rename(behavior)
    assert run(*arguments(path, place, "--presets", str(tmp_path / "presets"))).returncode == 0
    subjects = [re.search(r"Subject: (.*)", text)[1].split(" ", 1)[1].strip() for text in messages]
    assert subjects == ["begins", "failed", "is tried again", "is done"]
    assert "does not exist" in messages[1]
    assert listed(place, bucket) == {}


KILLER = """
import os, signal, sys
from lading.sessions import tasks as steps
from lading.sessions.commands.run import main
victim, moment = sys.argv[1:3]
find = steps.find
def deadly(task, *, dry_run):
    run = find(task, dry_run=dry_run)
    def killed(work):
        if task == victim and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        facts = run(work)
        if task == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        return facts
    return killed
steps.find = deadly
sys.exit(main(sys.argv[3:]))
"""


@pytest.mark.long
@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_in_each_task_in_turn(place, bucket: str, tmp_path: Path, run, moment: str) -> None:
    """SIGKILL in every task, just before or just after its work: each is finished once, its requests sent once."""
    started: list[dict] = []

    def answer(request):
        if request.path.endswith("search"):
            return 200, {"results": [entry for entry in started if "name" in entry]}
        if request.method == "GET":
            return 200, [entry for entry in started if "parameters" in entry]
        if request.path.endswith("/data_assets"):
            started.append({"id": "asset-1", "name": request.body["name"]})
        else:
            started.append({"id": "run-1", "state": "running", "parameters": request.body.get("parameters")})
        return 200, started[-1]

    with serve(answer) as web:
        columns = (
            ",codeocean_domain,codeocean_api_token,codeocean_trigger_capsule_id,modality0.compress_raw_data,"
            "remove_source_folders.skip_task,remove_source_folders.dry_run"
        )
        path = write_list(tmp_path, bucket, 1, columns, f",{web.url},t0ken,capsule-1,TRUE,FALSE,FALSE")
        for task in TASKS:
            command = arguments(path, place)
            killed = subprocess.run(
                [sys.executable, "-c", KILLER, task, moment, *command[3:]], capture_output=True, text=True, timeout=120
            )
            assert killed.returncode == -signal.SIGKILL, f"{task}: {killed.stdout}{killed.stderr}"
        final = run(*arguments(path, place))
    job = place_in(path, bucket)
    print("\n".join(shown(job)))
    assert final.returncode == 0, final.stdout + final.stderr
    counts = finished(job)
    assert {task: counts[task] for task in TASKS} == {task: 2 if task == "compress_data" else 1 for task in TASKS}
    assert len(web.of("POST", "/api/v1/computations")) == 1
    assert len(web.of("POST", "/api/v1/data_assets")) == 1
    assert not [file for file in (tmp_path / "session 0").rglob("*") if file.is_file()]
    assert len(listed(place, bucket)) == 7


def shown(job: JobPaths) -> list[str]:
    lines = []
    for event in read_log(job.journal):
        assert event is not None
        words = [event["at"], event["event"], event.get("task", ""), event.get("part", ""), event.get("state", "")]
        lines.append(" ".join(word for word in words if word))
    return lines


SECRETS = ("pl4nted-video-passw0rd", "pl4nted-co-t0ken", "pl4nted-ho0k-key", "pl4nted-file-key")


@pytest.mark.long
def test_planted_secrets_are_nowhere(place, bucket: str, tmp_path: Path) -> None:
    """Not in any log, journal, artefact, message or command line, whether the job is dry, good or fails."""
    (tmp_path / "hook.key").write_text(SECRETS[2])
    (tmp_path / "hook.key").chmod(0o600)
    site = tmp_path / "presets" / "site"
    site.mkdir(parents=True)
    seen: set[str] = set()
    ended = threading.Event()

    def sample() -> None:
        while not ended.is_set():
            for command in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(command.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
                except OSError:
                    continue
            time.sleep(0.01)

    sampler = threading.Thread(target=sample)
    sampler.start()
    outputs = []
    try:
        with serve(lambda request: (401, {"message": "no"}) if "api/v1" in request.path else (200, {})) as web:
            (site / "settings.json").write_text(
                json.dumps({"webhook": {"url": web.url + "/hook", "secret": "file:" + str(tmp_path / "hook.key")}})
            )
            columns = ",video_encryption_password,codeocean_domain,codeocean_api_token,log_level"
            path = write_list(tmp_path, bucket, 1, columns, f",{SECRETS[0]},{web.url},{SECRETS[1]},DEBUG")
            for more in (["--dry-run"], []):
                command = arguments(path, place, "--presets", str(tmp_path / "presets"), *more)
                outputs.append(subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=200))
            for verb in ("check", "explain"):
                command = ["-m", "jobs", verb, str(path)]
                outputs.append(subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=60))
        hooks = [request.headers.get("X-Lading-Signature", "") for request in web.requests if request.path == "/hook"]
    finally:
        ended.set()
        sampler.join()
    assert [output.returncode for output in outputs] == [0, 3, 0, 0], [o.stdout + o.stderr for o in outputs]
    assert "Code Ocean: POST" in outputs[1].stdout
    assert hooks
    assert all(re.fullmatch("sha256=[0-9a-f]{64}", hook) for hook in hooks)
    assert sum("jobs compress" in line for line in seen) > 0
    texts = {"output": "".join(output.stdout + output.stderr for output in outputs), "cmdline": "\n".join(seen)}
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert len(files) > 20
    for file in files:
        texts[str(file)] = file.read_bytes().decode("utf-8", "replace")
    for key in listed(place, bucket):
        texts[key] = client(place).get_object(Bucket=bucket, Key=key)["Body"].read().decode("utf-8", "replace")
    found = [(name, secret) for name, text in texts.items() for secret in SECRETS if secret in text]
    assert found == []
    videos = [key for key in listed(place, bucket) if key.endswith(".zip")]
    assert len(videos) == 2, "the videos went up in password zips"
    with pyzipper.AESZipFile(
        io.BytesIO(client(place).get_object(Bucket=bucket, Key=videos[0])["Body"].read())
    ) as zipped:
        (name,) = zipped.namelist()
        with pytest.raises(RuntimeError, match="password"):
            zipped.read(name, pwd=b"wrong")
        assert zipped.read(name, pwd=SECRETS[0].encode()) == (tmp_path / "session 0" / "videos" / name).read_bytes()


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
@pytest.mark.parametrize("skip_staging", ["TRUE", "FALSE"])
def test_hostile_names_travel_and_their_sources_go(
    gateway, bucket: str, tmp_path: Path, run, skip_staging: str
) -> None:
    gateway.make_bucket(bucket)
    more = ",modality0.skip_staging,remove_source_folders.skip_task,remove_source_folders.dry_run"
    path = write_list(tmp_path, bucket, 1, more, f",{skip_staging},FALSE,FALSE")
    source = tmp_path / "session 0" / "behavior"
    for number, name in enumerate(ODD_NAMES):
        with open(os.path.join(os.fsencode(source), name), "wb") as stream:
            stream.write(b"%d" % number)
    result = run(*arguments(path, gateway))
    assert result.returncode == 0, result.stdout + result.stderr
    objects = listed(gateway, bucket)
    assert len([key for key in objects if "/behavior/" in key]) == len(ODD_NAMES) + 2
    assert not source.exists()


@pytest.mark.long
def test_three_sessions_of_the_demo(place, bucket: str, tmp_path: Path, run) -> None:
    path = make_sessions(tmp_path / "data", bucket)
    result = run(*arguments(path, place, "--presets", str(PRESETS)), timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    objects = listed(place, bucket)
    prefixes = {key.split("/")[0] for key in objects}
    assert prefixes == {
        "ecephys_123454_2024-05-27_16-07-59",
        "SmartSPIM_123455_2024-05-28_10-00-00",
        "behavior_123456_2024-05-29_09-30-00",
    }
    checked = Counter()
    for key in objects:
        prefix, name = key.split("/", 1)
        if name in SCHEMAS:
            content = json.loads(client(place).get_object(Bucket=bucket, Key=key)["Body"].read())
            assert faults(name, content) == [], key
            checked[prefix] += 1
            if name == "processing.json":
                steps = [step["name"] for step in content["data_processes"]]
                wanted = {"ecephys": ["Compression ecephys"], "SmartSPIM": ["Compression SPIM"], "behavior": []}
                assert steps == wanted[prefix.split("_")[0]]
    assert checked == Counter(dict.fromkeys(prefixes, 3)) + Counter({"behavior_123456_2024-05-29_09-30-00": 1})
    assert os.environ["HOME"] not in result.stdout
