"""Waiting for Slurm without a Slurm: what its programs do not say, and whose submission a job is."""

import json
import os
import threading
from pathlib import Path

import pytest

from lading.core.errors import UsageError
from lading.sessions.executors import slurm_arrays as arrays
from lading.sessions.executors.slurm_arrays import SlurmSubmission, StoppedWaiting, SubmittedJob
from lading.sessions.journal import DONE, FAILED, JobJournal


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on PATH whose ``squeue`` answers with the files ``said.1``, ``said.2``… in turn, the last again."""
    tools = tmp_path / "bin"
    tools.mkdir()
    squeue = tools / "squeue"
    squeue.write_text(
        f"""#!/bin/bash
cd {tools}
number=$(( $(cat asked 2>/dev/null || echo 0) + 1 ))
echo $number > asked
until [ -e said.$number ]; do number=$((number - 1)); done
. ./said.$number
"""
    )
    squeue.chmod(0o755)
    (tools / "scancel").write_text(f'#!/bin/bash\necho "$@" >> {tools}/cancelled\n')
    (tools / "scancel").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return tools


def handed(root: Path, prefix: str = "p") -> SlurmSubmission:
    ticket = SubmittedJob(2, "b", prefix, False, 0, 0, 0, "")
    ticket.place(root).create()
    arrays.write_tickets(root / ".slurm" / "s", "list.csv", [ticket], False)
    return SlurmSubmission(root / ".slurm" / "s", root, [ticket], {(0, arrays.LAST): "7"})


def test_a_controller_that_does_not_answer_ends_no_job(slurm: Path, tmp_path: Path) -> None:
    (slurm / "said.1").write_text("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1")
    (slurm / "said.3").write_text("echo 7_0 RUNNING")
    (slurm / "said.4").write_text("echo 7_0 COMPLETED")
    submission = handed(tmp_path)
    with JobJournal(submission.submitted_jobs[0].place(tmp_path).journal) as journal:
        journal.begin()
        journal.write("end", state=DONE, message="")
    (outcome,) = submission.wait(threading.Event())
    assert outcome.state == DONE
    assert int((slurm / "asked").read_text()) == 4


@pytest.mark.parametrize("before", [FAILED, DONE])
def test_what_an_earlier_attempt_left_is_not_this_ones(slurm: Path, tmp_path: Path, before: str) -> None:
    (slurm / "said.1").write_text("echo 7_0 NODE_FAIL")
    place = handed(tmp_path).submitted_jobs[0].place(tmp_path)
    with JobJournal(place.journal) as journal:
        journal.begin()
        journal.write("end", state=before, message="the disk was full")
    ticket = SubmittedJob(2, "b", "p", False, 0, 0, 1, arrays.read_state(place.journal).ended)
    (outcome,) = SlurmSubmission(tmp_path / ".slurm" / "s", tmp_path, [ticket], {(0, arrays.LAST): "7"}).wait(
        threading.Event()
    )
    assert outcome.state == FAILED
    assert "Slurm ended job 7_0 with NODE_FAIL in its first task" in outcome.message


def test_a_wish_to_stop_is_passed_on_whatever_the_job_does(slurm: Path, tmp_path: Path) -> None:
    (slurm / "said.1").write_text("echo 7_0 RUNNING")
    (slurm / "said.2").write_text("echo 7_0 CANCELLED")
    submission = handed(tmp_path)
    place = submission.submitted_jobs[0].place(tmp_path)
    place.cancel.touch()
    (outcome,) = submission.wait(threading.Event())
    assert (outcome.state, place.cancel.exists()) == ("cancelled", False)
    assert (slurm / "cancelled").read_text().split()[0] == "7_0"


def test_told_to_end_it_says_that_the_jobs_go_on(slurm: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedWaiting, match="the jobs continue in Slurm: 7"):
        handed(tmp_path).wait(stop)


def test_a_submission_is_found_by_its_comment_when_sbatch_was_not_heard(slurm: Path, tmp_path: Path) -> None:
    (slurm / "said.1").write_text("echo 6 someone:else; echo 7 lading:s:0:last; echo 8")
    directory = handed(tmp_path).directory
    assert arrays.resume(directory, tmp_path, threading.Event()) is None  # sbatch was never asked
    (directory / "asking").touch()
    found = arrays.resume(directory, tmp_path, threading.Event())
    assert found
    assert found.elements(found.submitted_jobs[0]) == ["7_0"]
    # From now on it is written down.
    (slurm / "said.2").write_text("exit 1")
    assert arrays.resume(directory, tmp_path, threading.Event()) == found


def test_a_submission_that_cannot_be_looked_up_is_asked_for_again(slurm: Path, tmp_path: Path, monkeypatch) -> None:
    (slurm / "said.1").write_text("echo 'Unable to contact slurm controller' >&2; exit 1")
    (slurm / "said.2").write_text("echo 7 lading:s:0:last")
    directory = handed(tmp_path).directory
    (directory / "asking").touch()
    monkeypatch.setattr(arrays, "SELDOM", 0.01)
    found = arrays.resume(directory, tmp_path, threading.Event())
    assert found
    assert found.arrays == {(0, arrays.LAST): "7"}
    stop = threading.Event()
    stop.set()
    (directory / "array.0.last").unlink()
    (slurm / "asked").unlink()
    with pytest.raises(StoppedWaiting):
        arrays.resume(directory, tmp_path, stop)


def test_one_name_is_one_submission(tmp_path: Path) -> None:
    directory = handed(tmp_path).directory
    with pytest.raises(UsageError, match="submission of other jobs"):
        arrays.write_tickets(directory, "list.csv", [SubmittedJob(2, "b", "other", False, 0, 0, 0, "")], False)


def test_a_job_about_to_be_queued_by_another_is_refused(slurm: Path, tmp_path: Path, monkeypatch) -> None:
    class Named:
        s3_bucket, prefix, dry_run, destination = "b", "p", False, "s3://b/p"

    (slurm / "said.1").write_text("[[ $* = *comment* || $* = *%k* ]] && echo 7 lading:s:0:last || echo 7_0 PENDING")
    submission = handed(tmp_path)
    record = {"submission": str(submission.directory), "list": "list.csv", "array": 0, "index": 0, "element": ""}
    submission.submitted_jobs[0].place(tmp_path).queued.write_text(json.dumps(record))
    arrays.refuse_queued(Named(), tmp_path)  # type: ignore[arg-type]
    (submission.directory / "asking").touch()
    with pytest.raises(UsageError, match=r"is already pending as Slurm job 7_0, from list\.csv"):
        arrays.refuse_queued(Named(), tmp_path)  # type: ignore[arg-type]
    arrays.refuse_queued(Named(), tmp_path, submission.directory)  # type: ignore[arg-type]
    monkeypatch.setitem(os.environ, "LADING_SUBMISSION", str(submission.directory))
    arrays.refuse_queued(Named(), tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("waits", "covered"),
    [
        ("7_[0-2,5]", True),
        ("7_[0-2,6%4]", False),
        ("7_[1-9:2]", True),
        ("7_[0-8:2%3]", False),
        ("7_[0-2,9,...]", True),
        ("7_[0-2,9-...]", True),
        ("7_[0-2,1", True),
        ("7", True),
        ("7_[6-60]", False),
    ],
)
def test_a_waiting_array_is_read_however_slurm_writes_it(
    slurm: Path, tmp_path: Path, waits: str, covered: bool
) -> None:
    class Named:
        s3_bucket, prefix, dry_run, destination = "b", "p", False, "s3://b/p"

    # Only with this setting does squeue write a long list of indices out.
    (slurm / "said.1").write_text(f'[ "$SLURM_BITSTR_LEN" = 0 ] && echo "{waits} PENDING" || echo "7_[...] PENDING"')
    record = {"submission": "another", "list": "list.csv", "array": 0, "index": 5, "element": "7_5"}
    handed(tmp_path).submitted_jobs[0].place(tmp_path).queued.write_text(json.dumps(record))
    if covered:
        with pytest.raises(UsageError, match="is already pending as Slurm job 7_5"):
            arrays.refuse_queued(Named(), tmp_path)  # type: ignore[arg-type]
    else:
        arrays.refuse_queued(Named(), tmp_path)  # type: ignore[arg-type]
