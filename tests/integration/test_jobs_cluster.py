"""Job lists on a real Slurm and under a real MPI launcher, and tasks that bring their own program."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.core.errors import UsageError
from lading.core.extras import PACKAGES
from lading.sessions.executors import slurm_arrays as arrays
from lading.sessions.executors.slurm_arrays import _in_range
from lading.sessions.job_model import check
from lading.sessions.journal import read_state
from lading.sessions.resources import directives
from lading.sessions.table import read as read_table
from lading.sessions.tasks import scripts
from tests.conftest import REPOSITORY, need_program
from tests.integration.test_jobs_run import arguments, finished, listed, place, place_in, write_list

__all__ = ["place"]


def mark_file(path: Path) -> Path:
    """A batch script that leaves a file when it runs."""
    script = path.with_suffix(".sbatch")
    script.write_text(f"#!/bin/bash\ntouch '{path}'\n")
    return script


_SBATCH = """#!/bin/sh
for word; do case $word in --comment=*) comment=${word#--comment=};; esac; done
printf '%s\\n' "$LADING_LIST" "$LADING_ROWS" "$LADING_UNTIL" > "$RECORDS/$comment"
echo 7
"""


def test_two_submissions_of_one_process_hand_on_their_own_values(tmp_path: Path, monkeypatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, script in (("sbatch", _SBATCH), ("squeue", "#!/bin/sh\n")):
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("RECORDS", str(tmp_path))
    # Both are about to call sbatch at the same moment.
    both = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(arrays, "wait_for_lock", lambda _: both.wait())
    before = dict(os.environ)
    table = read_table(write_list(tmp_path, "bucket", rows=1))
    (job,) = check(table, base=tmp_path).jobs

    def hand_in(name: str) -> None:
        directory = tmp_path / name
        environment = {"LADING_LIST": f"/lists/{name}, with a comma.csv"}
        state, stop = tmp_path / f"state {name}", threading.Event()
        arrays.Slurm(
            Path("jobs.sbatch"),
            directory,
            environment,
            lambda _: [],
            state,
            stop,
            transfer=["--partition=xfer"],
            wait=False,
        ).run([job])

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(hand_in, ["one", "two"]))
    for name in ("one", "two"):
        rows, first = f"{tmp_path}/{name}/rows.0", "check_metadata_files"
        for part, until in ((arrays.FIRST, first), (arrays.LAST, "")):
            found = (tmp_path / f"lading:{name}:0:{part}").read_text().split("\n")
            assert found == [f"/lists/{name}, with a comma.csv", rows, until, ""]
    assert os.environ == before


@pytest.mark.long
@pytest.mark.xdist_group("slurm")
def test_a_list_as_an_array_with_one_bad_row(slurm_cluster, place, bucket: str, tmp_path: Path, run) -> None:
    path = write_list(tmp_path, bucket, rows=8)
    good = path.read_text()
    path.write_text(good.replace(f"{tmp_path}/session 3/videos", f"{tmp_path}/session 3/gone"))
    after = tmp_path / "after"
    slurm = ["--executor", "slurm", "--at-once", "4", "--sbatch=--partition=regular", "--sbatch=--time=10"]
    result = run(*arguments(path, place, *slurm, "--then", str(mark_file(after))), timeout=900)
    print(result.stdout)
    assert result.returncode == 3, result.stdout + result.stderr
    assert "7 done, 1 failed" in result.stdout
    assert f"{tmp_path}/session 3/gone does not exist" in result.stdout
    objects = {key.split("/")[0] for key in listed(place, bucket)}
    assert objects == {f"behavior_{1000 + n}_2024-05-27_16-07-{n:02d}" for n in range(8) if n != 3}
    assert not after.exists(), "afterok: a row failed"
    # Mended, the same command does the one that lacks; everything is good now, so what waits for it runs.
    path.write_text(good)
    again = run(*arguments(path, place, *slurm, "--then", str(mark_file(after))), timeout=900)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "8 done" in again.stdout
    for number in range(8):
        assert finished(place_in(path, bucket, number))["upload_data_to_s3"] == 1
    deadline = time.monotonic() + 60
    while not after.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert after.exists()


@pytest.mark.long
@pytest.mark.xdist_group("slurm")
def test_transfer_in_its_own_array_and_no_second_submission(
    slurm_cluster, place, bucket: str, tmp_path: Path, run
) -> None:
    path = write_list(tmp_path, bucket, rows=2)
    base = ["--executor", "slurm", "--sbatch=--partition=regular", "--sbatch=--time=10"]
    # Held: it stays in the queue while the second submission looks.
    held = run(*arguments(path, place, *base, "--sbatch=--hold", "--no-wait"))
    assert held.returncode == 0, held.stdout + held.stderr
    assert "2 queued" in held.stdout
    second = run(*arguments(path, place, *base))
    assert second.returncode == 3
    assert second.stdout.count("is already pending as Slurm job") == 2
    array = held.stdout.split("as array ")[1].split()[0]
    subprocess.run(["scancel", array], check=True)
    split = run(*arguments(path, place, *base, "--transfer-sbatch=--partition=xfer"), timeout=600)
    assert split.returncode == 0, split.stdout + split.stderr
    assert "2 done" in split.stdout
    state = read_state(place_in(path, bucket).journal)
    assert (state.state, state.attempts) == ("done", 2)


@pytest.mark.long
def test_ranks_share_a_list_and_a_dead_rank_costs_its_job(place, bucket: str, tmp_path: Path, run) -> None:
    need_program("mpiexec")
    path = write_list(tmp_path, bucket, rows=4)
    command = ["mpiexec", "-n", "3", sys.executable, "-m", "mpi4py", *arguments(path, place)]
    environment = {**os.environ, "HYDRA_LAUNCHER": "fork"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("4 done") == 1
    pids = {read_state(place_in(path, bucket, number).journal).pid for number in range(4)}
    assert len(pids) >= 2
    for number in range(4):
        assert read_state(place_in(path, bucket, number).journal).attempts == 1


def test_ranks_say_what_is_wrong_with_a_setting(place, bucket: str, tmp_path: Path) -> None:
    need_program("mpiexec")
    path = write_list(tmp_path, bucket, rows=1)
    command = ["mpiexec", "-n", "2", sys.executable, "-m", "mpi4py", *arguments(path, place, "--max-workers", "many")]
    environment = {**os.environ, "HYDRA_LAUNCHER": "fork"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "'many'" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.long
def test_cancel_ends_a_running_job_and_its_programs(place, bucket: str, tmp_path: Path, run) -> None:
    path = write_list(tmp_path, bucket, 1, ",modality0.job_settings.x", ",1")
    preset = tmp_path / "presets/job_types/v2/default/tasks/modality_transformation_settings/behavior.json"
    preset.parent.mkdir(parents=True)
    preset.write_text(json.dumps({"command_script": "echo $$ > %OUTPUT_LOCATION/pid; sleep 600"}))
    command = [sys.executable, *arguments(path, place, "--presets", str(tmp_path / "presets"))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        pid_file = place_in(path, bucket).directory / "staged" / "behavior" / "pid"
        deadline = time.monotonic() + 120
        while not (pid_file.exists() and pid_file.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.1)
        pid = int(pid_file.read_text())
        command = ("-m", "jobs", "cancel", path, "--state", path.parent / "runs", "--all")
        # Without the presets the row is no job: that is said, not passed over.
        unknown = run(*command)
        assert unknown.returncode == 2, unknown.stdout + unknown.stderr
        assert "'x' is not read by behavior" in unknown.stderr
        cancelled = run(*command, "--presets", tmp_path / "presets")
        assert "asked to stop" in cancelled.stdout, cancelled.stdout + cancelled.stderr
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "1 cancelled" in output
    assert not Path(f"/proc/{pid}").exists()
    assert read_state(place_in(path, bucket).journal).state == "cancelled"
    status = run("-m", "jobs", "status", path, "--state", path.parent / "runs", "--presets", tmp_path / "presets")
    assert "cancelled" in status.stdout


QUOTINGS = ("%INPUT_SOURCE", "'%INPUT_SOURCE'", '"%INPUT_SOURCE"')


@settings(max_examples=60, deadline=None)
@given(
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=30),
    st.sampled_from(
        ["%INPUT_SOURCE", "'%INPUT_SOURCE'", '"%INPUT_SOURCE"', "a'%INPUT_SOURCE'b", "it\\'s%INPUT_SOURCE"]
    ),
)
def test_placeholders_stay_one_word(value: str, place: str) -> None:
    """Whatever the value, and however the script quotes it, the shell sees that text and nothing else."""
    script = scripts.fill(f"# it's a comment\nprintf '%s' {place}", {"INPUT_SOURCE": value})
    shell = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=20, check=True)
    wanted = {"a'%INPUT_SOURCE'b": f"a{value}b", "it\\'s%INPUT_SOURCE": f"it's{value}"}.get(place, value)
    assert shell.stdout == wanted


@pytest.mark.parametrize(
    "script", ["cat <<EOF\n%IMAGE\nEOF", "echo `%IMAGE`", 'echo "$(ls %IMAGE)"', "echo $'%IMAGE'", "echo %S3_LOCATION"]
)
def test_placeholders_that_cannot_be_quoted_are_refused(script: str) -> None:
    with pytest.raises(UsageError, match="command_script"):
        scripts.fill(script, {"IMAGE": "x"})


@pytest.mark.parametrize(
    "script",
    [
        'out="$(cat "%IMAGE")"',
        'echo "${x:-"%IMAGE"}"',
        'a="$(cat "b" )" && cp "%IMAGE" c',
        'echo "$(cat <(ls) "%IMAGE")"',
    ],
)
def test_quotes_within_a_substitution_within_quotes_are_refused(script: str) -> None:
    """The shell reads them anew; by the outer ones the value would be a word too many, or run."""
    with pytest.raises(UsageError, match="in a command substitution inside double quotes"):
        scripts.fill(script, {"IMAGE": "$(touch x)"})


def test_a_closed_substitution_before_a_placeholder_is_no_reason() -> None:
    script = 'at="$(date)"; echo "${HOME}" "%IMAGE"'
    assert scripts.fill(script, {"IMAGE": "$(touch x)"}).endswith('"${HOME}" "\\$(touch x)"')


def test_comments_and_substitutions_hold() -> None:
    hostile = "a'\n$(touch x); echo $((1+1))"
    filled = scripts.fill("# %IMAGE\necho $(printf '%s' %IMAGE) # %IMAGE", {"IMAGE": hostile})
    assert filled.count("%IMAGE") == 2
    shell = subprocess.run(["bash", "-c", filled], capture_output=True, text=True, check=True, timeout=20)
    assert shell.stdout.split() == hostile.split()


def test_image_resources_become_directives() -> None:
    resources = {"memory_gb": 64, "time_limit": {"set": True, "number": 240}, "partition": "aind", "cpus_per_task": 8}
    wanted = ["--mem=64G", "--time=240", "--partition=aind", "--cpus-per-task=8"]
    assert directives(resources) == wanted
    assert directives({"tres_per_task": "gres/gpu:1"}) == ["--tres-per-task=gres/gpu:1"]
    with pytest.raises(UsageError, match="memroy"):
        directives({"memroy": 1})
    with pytest.raises(UsageError, match="is not a value"):
        directives({"partition": "a; rm -rf /"})


def test_an_image_without_a_runtime_is_refused(place, bucket: str, tmp_path: Path, run, monkeypatch) -> None:
    preset = tmp_path / "presets/job_types/v2/default/tasks/modality_transformation_settings/behavior.json"
    preset.parent.mkdir(parents=True)
    preset.write_text(json.dumps({"image": "lab/ephys", "image_version": "1.2", "command_script": "true"}))
    path = write_list(tmp_path, bucket)
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    more = ["--presets", str(tmp_path / "presets"), "--until", "compress_data"]
    refused = run(*arguments(path, place, *more))
    assert "asks for the image lab/ephys, but neither apptainer nor singularity is on PATH" in refused.stdout
    # A stand-in for the runtime shows what it is asked to do.
    (tools / "apptainer").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/asked\n')
    (tools / "apptainer").chmod(0o755)
    assert run(*arguments(path, place, *more)).returncode == 0
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[:3] == ["exec", "--cleanenv", "--bind"]
    assert asked[4:6] == ["docker://lab/ephys:1.2", "bash"]


@pytest.mark.parametrize(
    ("known", "index", "inside"),
    [("12_[0-7]", "3", True), ("12_[0,4-7%2]", "3", False), ("12_[0,4-7%2]", "0", True), ("12", "9", True)],
)
def test_pending_elements_of_an_array(known: str, index: str, inside: bool) -> None:
    assert _in_range(known, index) is inside


@pytest.mark.long
def test_an_interrupted_run_goes_on(place, bucket: str, tmp_path: Path, run) -> None:
    path = write_list(tmp_path, bucket)
    command = [sys.executable, *arguments(path, place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        journal = place_in(path, bucket).journal
        deadline = time.monotonic() + 120
        while not read_state(journal).task("compress_data", "behavior").over and time.monotonic() < deadline:
            threading.Event().wait(0.05)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    if process.returncode != 0:  # it may have been done before the signal came
        assert process.returncode == 130, output
        assert "run the same command again" in output
    assert run(*arguments(path, place)).returncode == 0
    assert finished(place_in(path, bucket))["create_staging_folder"] == 1


@pytest.mark.long
@pytest.mark.xdist_group("slurm")
def test_one_sbatch_does_a_list(slurm_cluster, place, bucket: str, tmp_path: Path) -> None:
    path = write_list(tmp_path, bucket, rows=2)
    ready = tmp_path / "venv"
    ready.mkdir()
    for stamp in (".ready", *(f".ready-{extra}" for extra in PACKAGES)):
        (ready / stamp).touch()
        os.utime(ready / stamp, (2**32, 2**32))
    environment = {**os.environ, "lading": str(REPOSITORY), "venv": str(ready), "python": sys.executable}
    output = tmp_path / "output"
    flags = ["--endpoint-url", place.endpoint, "--state", str(tmp_path / "runs"), "--cores", "1"]
    command = ["sbatch", "--wait", "--ntasks=2", "--time=10", f"--output={output}", "--partition=regular"]
    command += [str(REPOSITORY / "slurm" / "jobs.sbatch"), str(path), *flags]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == 0, result.stdout + result.stderr + output.read_text()
    assert output.read_text().count("2 done") == 1
    for number in range(2):
        assert read_state(place_in(path, bucket, number).journal).attempts == 1
