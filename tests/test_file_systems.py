"""Working folders on file systems that lack hard links, directory fsync, locks or room; containers on one host."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lading.cluster.lease import lease
from lading.coordination.exclusive import create_whole, take_away
from lading.coordination.identity import is_abandoned, owner_tag, this_host
from lading.errors import LadingError, Locked
from lading.files import replacing
from lading.transfer.lease import Lease
from tests import labtree
from tests.conftest import REPOSITORY, need, need_program


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need_program("gcc")
    built = tmp_path_factory.mktemp("preload") / "filesystem.so"
    source = REPOSITORY / "tests" / "preload" / "filesystem.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(built), str(source), "-ldl"], check=True)
    return built


def lacking(shim: Path, words: str, below: Path | None = None) -> dict[str, str]:
    return {**os.environ, "LD_PRELOAD": str(shim), "LACKS": words, "LACKS_BELOW": str(below or "")}


def call(directory: Path, environment: dict[str, str], *command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *command],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("words", ["links noreplace", "links", "far-links", "syncdir", "flock", "links syncdir flock"])
def test_the_whole_way_where_the_file_system_lacks(words: str, shim, s3, bucket: str, tmp_path: Path) -> None:
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, 60, odd=False)
    directory.mkdir()
    s3.make_bucket(bucket)
    environment = lacking(shim, words)
    plan = ["--file-tree", "find.json", "--min-batch-size", "1", "--max-batch-size", "100k", "-o", "batch.json"]
    for command in (
        [str(REPOSITORY / "find.py"), str(root), "-o", "find.json"],
        [str(REPOSITORY / "batch.py"), str(root), *plan],
        labtree.upload_command(root, s3, bucket)[1:],
        ["-m", "lading.transfer.verify", str(root), "--bucket", f"s3://{bucket}", "--endpoint-url", s3.endpoint],
        [
            "-m",
            "lading.transfer.restore",
            "--prefix",
            ".",
            "--to",
            str(tmp_path / "back"),
            "--endpoint-url",
            s3.endpoint,
        ],
    ):
        result = call(directory, environment, *command)
        assert result.returncode == 0, (command, result.stdout, result.stderr)
    assert labtree.differences(s3, bucket, root) == []
    assert sorted(path for path, _ in labtree.walk(tmp_path / "back")) == sorted(path for path, _ in labtree.walk(root))
    assert not list((directory / "journal" / "leases").iterdir())


@pytest.mark.parametrize(("word", "sentence"), [("space", "No space left on device"), ("quota", "Disk quota exceeded")])
def test_a_full_disk_is_told_with_the_name_of_the_file(
    word: str, sentence: str, shim, s3, bucket: str, tmp_path
) -> None:
    root, directory = tmp_path / "data", tmp_path / "run"
    labtree.make_tree(root, 20, odd=False)
    labtree.make_plan(root, directory)
    s3.make_bucket(bucket)
    environment = lacking(shim, word, directory)
    plan = ["--file-tree", "find.json", "--min-batch-size", "1", "-o", "new.json"]
    verify = ["-m", "lading.transfer.verify", str(root), "--bucket", f"s3://{bucket}", "--endpoint-url", s3.endpoint]
    for command in (
        [str(REPOSITORY / "find.py"), str(root), "-o", "new-tree.json"],
        [str(REPOSITORY / "batch.py"), str(root), *plan],
        labtree.upload_command(root, s3, bucket)[1:],
        verify,
    ):
        result = call(directory, environment, *command)
        assert result.returncode == 1, (command, result.stderr)
        told = [line for line in result.stderr.splitlines() if sentence in line]
        assert told, result.stderr
        assert all(str(directory) in line or ".json" in line for line in told), told
        assert "Traceback" not in result.stderr
    assert not list(directory.glob(".new*")), "nothing half-written is left"


def test_two_takers_of_one_name_without_links(shim, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lading.coordination.exclusive import create_whole\n"
        "try:\n create_whole(Path(sys.argv[1]), sys.argv[2].encode()); print('mine')\n"
        "except FileExistsError: print('taken')\n"
    )
    for words in ("links noreplace", "links", "far-links", ""):
        target = tmp_path / f"lock-{words.replace(' ', '-')}"
        environment = {**lacking(shim, words), "PYTHONPATH": str(REPOSITORY)}
        takers = [
            subprocess.Popen([sys.executable, "-c", code, str(target), str(n)], env=environment, stdout=subprocess.PIPE)
            for n in range(6)
        ]
        answers = [taker.communicate(timeout=60)[0].decode().strip() for taker in takers]
        assert sorted(answers) == ["mine"] + ["taken"] * 5
        assert target.read_text() == str(answers.index("mine"))
    assert sorted(path.name[:5] for path in tmp_path.iterdir()) == ["lock-"] * 4, "no draft is left"


def test_a_lease_is_taken_only_from_the_holder_that_was_judged(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    create_whole(path, b"dead")
    judged = path.read_bytes()
    path.unlink()
    create_whole(path, b"alive")
    assert not take_away(path, lambda aside: aside.read_bytes() == judged)
    assert path.read_bytes() == b"alive", "it was put back"
    assert take_away(path, lambda aside: aside.read_bytes() == b"alive")
    assert not path.exists()
    assert not take_away(path, lambda aside: True)
    assert not list(tmp_path.iterdir())


def test_who_judged_late_does_not_take_the_lease_of_a_job_from_the_living(tmp_path: Path, monkeypatch) -> None:
    import lading.cluster.lease as module

    (tmp_path / "holders").mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "holders" / "gone").write_text(f'{{"machine": "{this_host()}", "pid": {dead.pid}, "start": 1}}')
    create_whole(tmp_path / "lease", f'{{"launch": "gone", "host": "{this_host()}", "pid": {dead.pid}}}'.encode())
    held, end = threading.Event(), threading.Event()

    def first() -> None:
        with lease(tmp_path, "first"):
            held.set()
            end.wait(30)

    other = threading.Thread(target=first)
    wait_for_death = module._wait_for_death

    def pause(*arguments: object) -> None:
        wait_for_death(*arguments)  # type: ignore[arg-type]
        if threading.current_thread() is not other and not held.is_set():
            other.start()
            assert held.wait(30)

    monkeypatch.setattr(module, "_wait_for_death", pause)
    with pytest.raises(Locked), lease(tmp_path, "second"):
        raise AssertionError("both hold it")
    end.set()
    other.join(30)


def test_a_lease_that_is_no_object_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "leases").mkdir()
    for number, text in enumerate(("[]", "3", '"x"', "{}", '{"pid": []}', "[" * 3000, "\xff")):
        path = tmp_path / "leases" / f"odd-{number}"
        path.write_text(text)
        os.utime(path, (1, 1))
    with Lease(tmp_path, "next") as held:
        assert held.others() == []
    assert not list((tmp_path / "leases").iterdir())


def unshared(*command: str, **more: object) -> "subprocess.Popen[str]":
    """Start a program in a PID namespace of its own, as a container is."""
    wrapped = ["unshare", "--map-root-user", "--user", "--pid", "--fork", "--kill-child", "--mount-proc", *command]
    return subprocess.Popen(wrapped, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)  # type: ignore[call-overload,no-any-return]


@pytest.fixture(scope="session")
def namespaces() -> None:
    need_program("unshare")
    probe = unshared("true")
    _, errors = probe.communicate(timeout=30)
    need(f"no PID namespaces here: {errors.strip()}" if probe.returncode else None)


def test_an_uploader_in_a_container_is_not_taken_for_dead(namespaces, tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from lading.transfer.lease import Lease\n"
        "with Lease(Path(sys.argv[1]), 'inside') as lease: print(lease.claim('b'), flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    inside = unshared(sys.executable, "-c", hold, str(tmp_path), env=environment)
    try:
        assert inside.stdout is not None
        assert inside.stdout.readline().strip() == "True"
        with pytest.raises(Locked, match=r"process \d+ on .* uploads this plan already"), Lease(tmp_path, "outside"):
            raise AssertionError("the lock of a living process was taken")
        with Lease(tmp_path, "outside", join=True) as beside:
            assert len(beside.others()) == 1
            assert not beside.claim("b")
    finally:
        inside.send_signal(signal.SIGKILL)
        inside.communicate(timeout=30)


def test_a_job_in_a_container_keeps_its_lease(namespaces, tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from lading.cluster.lease import lease\n"
        "with lease(Path(sys.argv[1]), 'inside'): print('held', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    inside = unshared(sys.executable, "-c", hold, str(tmp_path), env=environment)
    try:
        assert inside.stdout is not None
        assert inside.stdout.readline().strip() == "held"
        with pytest.raises(Locked, match="another run works on"), lease(tmp_path, "outside"):
            raise AssertionError("two hold one job")
    finally:
        inside.send_signal(signal.SIGKILL)
        inside.communicate(timeout=30)


def test_what_a_killed_process_left_of_an_artefact_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from lading.files import replacing\n"
        "with replacing(sys.argv[1]) as stream: stream.write('half'); stream.flush(); os.kill(os.getpid(), 9)"
    )
    target = tmp_path / "find.json"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(target)], env=environment, check=False, timeout=60)
    left = list(tmp_path.iterdir())
    assert len(left) == 2
    other, notes = tmp_path / ".other.json.notes", tmp_path / ".find.json.notes"
    other.touch(), notes.touch()
    with replacing(target, sweep=True) as stream:
        mine = [path for path in tmp_path.iterdir() if path not in left and owner_tag() in path.name]
        assert len(mine) == 1
        assert not is_abandoned(mine[0].name.removeprefix(".find.json."), time.time() - 10**6)
        stream.write("{}")
    assert sorted(tmp_path.iterdir()) == sorted([target, other, notes])


def test_an_artefact_that_cannot_be_made_names_itself(tmp_path: Path) -> None:
    with pytest.raises(LadingError, match=r"cannot write .*nowhere/x"):
        create_whole(tmp_path / "nowhere" / "x", b"")


def as_reader(*command: str) -> list[str]:
    """Return a command that runs without root's right to pass over the modes of files."""
    drop = "-dac_override,-dac_read_search,-fowner"
    return ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}", *command]


def test_who_may_only_read_can_verify_and_look_at_the_status(s3, bucket: str, tmp_path: Path) -> None:
    need_program("setpriv")
    need(None if os.geteuid() == 0 else "only root can make files of another user")
    root, directory, own = tmp_path / "data", tmp_path / "run", tmp_path / "own"
    labtree.make_tree(root, 30, odd=False)
    labtree.make_plan(root, directory)
    s3.make_bucket(bucket)
    done = labtree.upload(root, directory, s3, bucket)
    assert done.returncode == 0, done.stderr
    for path in [directory, *directory.rglob("*")]:
        os.chown(path, 12345, 12345)
        path.chmod(0o755 if path.is_dir() else 0o644)
    before = {path: path.stat().st_mtime_ns for path in directory.rglob("*")}
    own.mkdir()
    arguments = [str(root), "--bucket", f"s3://{bucket}", "--endpoint-url", s3.endpoint]
    verify = [sys.executable, "-m", "lading.transfer.verify", *arguments, "--batch", str(directory / "batch.json")]

    def reader(*command: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            as_reader(*command), cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
        )

    done = reader(*verify, cwd=own)
    assert done.returncode == 0, done.stderr
    assert "30 of 30 objects" in done.stdout
    assert f"{directory} cannot be written by you, so nothing was recorded there" in done.stdout
    assert (own / "manifest.jsonl.zst").stat().st_size > 0
    done = reader(*verify, cwd=directory)
    assert done.returncode == 2, done.stderr
    assert "say where: -o FILE" in done.stderr
    done = reader(sys.executable, "-m", "lading.report", "status", cwd=directory)
    assert done.returncode in (0, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before
