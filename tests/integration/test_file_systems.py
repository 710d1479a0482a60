"""Working folders on file systems that lack hard links, directory fsync, locks or room; containers on one host."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lading.coordination.exclusive import create_whole
from lading.coordination.lease import Lease
from lading.core.atomic import atomic_write
from lading.core.errors import LadingError
from lading.core.identity import is_abandoned, owner_tag
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
        ["-m", "lading", "verify", str(root), "--bucket", f"s3://{bucket}", "--endpoint-url", s3.endpoint],
        [
            "-m",
            "lading.cli.restore",
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
    verify = ["-m", "lading", "verify", str(root), "--bucket", f"s3://{bucket}", "--endpoint-url", s3.endpoint]
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


def test_a_lease_that_is_no_object_names_nobody(tmp_path: Path) -> None:
    (tmp_path / "leases").mkdir()
    for number, text in enumerate(("[]", "3", '"x"', "{}", '{"pid": []}', "[" * 3000, "\xff")):
        path = tmp_path / "leases" / f"odd-{number}"
        path.write_text(text)
        os.utime(path, (1, 1))
    with Lease(tmp_path, "next") as held:
        assert held.others() == []
    assert not list((tmp_path / "leases").iterdir())


def test_what_a_killed_process_left_of_an_artefact_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from lading.core.atomic import atomic_write\n"
        "with atomic_write(sys.argv[1]) as stream: stream.write('half'); stream.flush(); os.kill(os.getpid(), 9)"
    )
    target = tmp_path / "find.json"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(target)], env=environment, check=False, timeout=60)
    left = list(tmp_path.iterdir())
    assert len(left) == 2
    other, notes = tmp_path / ".other.json.notes", tmp_path / ".find.json.notes"
    other.touch(), notes.touch()
    with atomic_write(target, sweep=True) as stream:
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
    verify = [sys.executable, "-m", "lading", "verify", *arguments, "--batch", str(directory / "batch.json")]

    def reader(*command: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            as_reader(*command), cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
        )

    done = reader(*verify, cwd=own)
    assert done.returncode == 0, done.stderr
    assert "30 of 30 objects" in done.stdout
    assert f"{directory} is not writable for you, so nothing was recorded there" in done.stdout
    assert (own / "manifest.jsonl.zst").stat().st_size > 0
    done = reader(*verify, cwd=directory)
    assert done.returncode == 2, done.stderr
    assert "say where to write with -o FILE" in done.stderr
    done = reader(sys.executable, "-m", "lading", "status", cwd=directory)
    assert done.returncode in (0, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.stat().st_mtime_ns for path in directory.rglob("*")} == before
