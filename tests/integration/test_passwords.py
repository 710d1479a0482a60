"""An archive of another password is never taken for the one that is wanted, and no record gives a password away."""

import json
import zipfile
from pathlib import Path

import pytest
import pyzipper

from lading.cli import compress as command
from lading.compress import passwords
from lading.core.errors import ConsistencyError, UsageError
from lading.sessions.job_runner import _Run  # the decision what is done, apart from what does it
from lading.sessions.journal import DONE


def zip_up(source: Path, out: Path, secret: str, monkeypatch: pytest.MonkeyPatch, kind: str = "generic") -> int:
    monkeypatch.setenv("LADING_ZIP_PASSWORD", secret)
    more = ["--pack", "aes"] if kind == "generic" else ["--preset", "none", "--video-zip", "aes"]
    return command.main([str(source), str(out), "--kind", kind, "--workers", "1", *more])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with one video that is none: no preset looks into it."""
    (tmp_path / "session").mkdir()
    (tmp_path / "session" / "face.mp4").write_bytes(b"frames" * 100)
    return tmp_path / "session"


@pytest.mark.parametrize("kind", ["generic", "video"])
def test_a_changed_password_is_another_job(
    kind: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert zip_up(source, out, "first secret", monkeypatch, kind) == 0
    assert zip_up(source, out, "first secret", monkeypatch, kind) == 0
    with pytest.raises(ConsistencyError, match="was made with another password; give that one, or remove"):
        zip_up(source, out, "second secret", monkeypatch, kind)
    (archive,) = out.glob("*.zip")
    with pyzipper.AESZipFile(archive) as opened:
        assert opened.read("face.mp4", pwd=b"first secret") == b"frames" * 100
    # Without its state nobody knows the password any more: not adopted.
    (tmp_path / "out.state").rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="does not say with which password"):
        zip_up(source, out, "first secret", monkeypatch, kind)


def test_a_plan_of_an_earlier_version_is_not_adopted(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert zip_up(source, out, "first secret", monkeypatch) == 0
    plan = tmp_path / "out.state" / "plan.json"
    record = json.loads(plan.read_text())
    for value, reason in ((None, "does not say with which"), ("scrypt-2-1-1$00$00", "is damaged")):
        record["job"]["facts"]["password"] = value
        plan.write_text(json.dumps(record))
        with pytest.raises(ConsistencyError, match=reason):
            zip_up(source, out, "first secret", monkeypatch)


def test_a_password_that_changes_between_plan_and_work_is_seen(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lading.compress.job import load_kind
    from tests.kinds import plan_job

    monkeypatch.setenv("LADING_ZIP_PASSWORD", "first secret")
    job, plan = plan_job("generic", source, tmp_path / "out", pack="aes")
    monkeypatch.setenv("LADING_ZIP_PASSWORD", "second secret")
    with pytest.raises(ConsistencyError, match="another one than when the work was planned"):
        load_kind("generic").run(job, plan.units[0])
    assert not list((tmp_path / "out").glob("*.zip"))


def test_nothing_that_is_uploaded_or_printed_tells_of_the_password(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out, secret = tmp_path / "out", "first secret"
    assert zip_up(source, out, secret, monkeypatch) == 0
    noted = json.loads((tmp_path / "out.state" / "plan.json").read_text())["job"]["facts"]["password"]
    assert passwords.is_noted(noted, secret)
    shown = "".join(capfd.readouterr()).encode() + b"".join(p.read_bytes() for p in out.rglob("*") if p.is_file())
    kept = b"".join(p.read_bytes() for p in (tmp_path / "out.state").rglob("*") if p.is_file())
    assert secret.encode() not in shown + kept
    assert noted.split("$")[2].encode() not in shown
    assert zipfile.is_zipfile(next(out.glob("*.zip")))


def test_records_of_a_password_are_salted_and_slow() -> None:
    one, two = passwords.note_password("secret"), passwords.note_password("secret")
    assert one != two
    assert passwords.is_noted(one, "secret")
    assert passwords.is_noted(two, "secret")
    assert not passwords.is_noted(one, "Secret")
    assert one.startswith("scrypt-32768-8-1$")


@pytest.mark.parametrize("place", ["literal", "file", "env"])
def test_a_job_whose_password_changed_is_not_done(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it stands may stay the same: a file or a variable that holds another one now."""
    import threading

    from lading.sessions import job_runner as workflow
    from lading.sessions.journal import JobState
    from lading.sessions.state_paths import paths_of
    from lading.sessions.task_context import RunSettings
    from tests.unit.sessions.test_table import parsed

    secret = tmp_path / "secret"
    monkeypatch.setattr(workflow.due, "anything_left", lambda *_: False)
    monkeypatch.setattr(workflow, "read_state", lambda _: JobState(state=DONE))
    monkeypatch.setattr(workflow._Run, "_tasks", lambda *_: ("failed", "begins anew", ""))
    monkeypatch.setattr(workflow._Run, "_after_failure", lambda *_: None)
    monkeypatch.setattr(workflow._Run, "_notice", lambda *_: None)

    def result(password: str) -> str:
        secret.write_text(password)
        secret.chmod(0o600)
        monkeypatch.setenv("VIDEO_SECRET", password)
        cell = {"literal": password, "file": f"file:{secret}", "env": "env:VIDEO_SECRET"}[place]
        header = "platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source,video_encryption_password"
        (job,) = parsed(f"{header}\nbehavior,1,2020-10-10 14:10:10,b-1,behavior-videos,{tmp_path},{cell}\n").jobs
        home = paths_of(tmp_path / "runs", job.s3_bucket, job.prefix).create()
        settings = RunSettings(state_root=tmp_path / "runs", list_path=tmp_path / "list.csv")
        return _Run(job, settings, home, threading.Event(), "").work()[1]

    assert result("first") == "begins anew"  # nothing is noted yet
    assert [result("first"), result("second"), result("second")] == [
        "was done before",
        "begins anew",
        "was done before",
    ]
    noted = "".join(path.read_text() for path in (tmp_path / "runs").rglob("job.json"))
    assert "first" not in noted
    assert "second" not in noted
