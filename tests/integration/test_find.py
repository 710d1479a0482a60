"""find.py as it is called: flags, ranks, what it says and its exit codes."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import zstandard

from lading.plan.batch_plan import read_plan
from lading.plan.ownership import load_tree
from lading.tree.json_reader import read_tree
from lading.tree.size_tree import meta_path, read_meta
from tests import crawling
from tests.conftest import REPOSITORY, need_program


def mpi(ranks: int, *arguments: object, timeout: float = 120, **variables: str) -> "subprocess.CompletedProcess[str]":
    need_program("mpiexec")
    command = ["mpiexec", "-n", str(ranks), sys.executable, "-m", "mpi4py", str(REPOSITORY / "find.py")]
    return subprocess.run(
        [*command, *map(str, arguments)],
        env=os.environ | variables,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
    )


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    crawling.make_hostile(root, 1)
    return root


# The shared part is the same for both walks: one count of ranks is enough for the second.
@pytest.mark.parametrize(("ranks", "walk"), [(1, "core"), (2, "core"), (4, "core"), (2, "python")])
def test_ranks_write_the_same_bytes(tmp_path: Path, ranks: int, walk: str) -> None:
    root = tmp_path / "tree"
    crawling.make_hostile(root / "odd", 1)
    for i in range(40):
        for j in range(10):
            (root / f"d{i}" / f"e{j}").mkdir(parents=True)
            (root / f"d{i}" / f"e{j}" / "file").write_bytes(b"x" * i)
    # A slow file system, so that there is something to share.
    result = mpi(
        ranks, root, "--max-workers", "2", "--max-rate", 2500 * ranks, "-o", tmp_path / "o.json", LADING_WALK=walk
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "o.json").read_bytes() == crawling.oracle(root)
    assert result.stdout.count("entries:") == 1


@pytest.mark.parametrize("walk", ["core", "python"])
def test_ranks_crawl_what_changed(tmp_path: Path, walk: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ranks know the earlier crawl; one that cannot read it stops them all before they begin."""
    from lading.cli.find import main
    from lading.crawl import since

    root, out = tmp_path / "tree", tmp_path / "o.json"
    crawling.make_hostile(root / "odd", 1)
    for i in range(200):
        (root / f"d{i}" / "e").mkdir(parents=True)
        (root / f"d{i}" / "e" / "file").write_bytes(b"x" * i)
    monkeypatch.setattr(since, "SLACK_NS", -(10**12))  # it was a while ago
    monkeypatch.setenv("LADING_WALK", walk)
    assert main([str(root), "-o", str(out)]) == 0
    time.sleep(0.02)
    (root / "d7" / "e" / "more").write_bytes(b"x")
    flags = (root, "--max-workers", "2", "--max-rate", "2000", "--since", out, "-o", out)
    result = mpi(2, *flags, LADING_WALK=walk)
    assert result.returncode == 0, result.stderr
    assert out.read_bytes() == crawling.oracle(root)
    counts = read_meta(meta_path(out))
    # The root and what holds fifos or sockets are listed, and what changed.
    assert counts.directories - 40 < counts.settings["since"]["unchanged"] < counts.directories
    os.truncate(tmp_path / "o.directories.zst", 50)
    result = mpi(2, *flags, LADING_WALK=walk)
    assert result.returncode == 2
    assert result.stderr.count("o.directories.zst") == 1, result.stderr


def test_ranks_lend_directories(tmp_path: Path) -> None:
    """Directories do go to other ranks, on to third ones, and come back with faults and vanished ones."""
    from lading.crawl.options import Options
    from lading.crawl.walker import make_walker

    root = tmp_path / "tree"
    crawling.make_hostile(root, 4, size=300)
    expected = crawling.oracle(root)
    walkers = [make_walker(str(root), Options(workers=2, rate=1000), seed=not rank, core=True) for rank in range(3)]
    for walker in walkers:
        walker.start()
    lent = 0
    while not all(walker.wait(0.001) for walker in walkers):
        for rank, walker in enumerate(walkers):
            taker = (rank + 1) % 3
            for item in walker.take(4):
                walkers[taker].give(rank, *item)
                lent += 1
    for walker in walkers:
        walker.end()
    for rank, walker in enumerate(walkers):
        index = 0
        while (shard := walker.shard(index)) is not None:
            walkers[0].add_shard(rank, shard)
            index += 1
    walkers[0].settle()
    assert lent > 3
    assert crawling.text(walkers[0]) == expected


def test_a_rank_that_dies_leaves_nothing_behind(tmp_path: Path) -> None:
    need_program("mpiexec")
    root = tmp_path / "tree"
    for i in range(300):
        (root / str(i)).mkdir(parents=True)
    (tmp_path / "o.json").write_text("old")
    command = ["mpiexec", "-n", "3", sys.executable, "-m", "mpi4py", str(REPOSITORY / "find.py"), str(root)]
    command += ["--max-rate", "50", "-o", str(tmp_path / "o.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as job:
        victim = None
        until = time.monotonic() + 60
        while victim is None and time.monotonic() < until:
            victim = _rank_below(job.pid, "2")
            time.sleep(0.1)
        assert victim, "no rank 2 was started"
        time.sleep(2)
        os.kill(victim, signal.SIGKILL)
        said, _ = job.communicate(timeout=60)
    assert job.returncode not in (0, 3)
    assert said.strip(), "nobody said that a rank died"
    assert (tmp_path / "o.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def _rank_below(launcher: int, rank: str) -> int | None:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            above = entry
            if f"PMI_RANK={rank}".encode() not in environment:
                continue
            for _ in range(6):
                parent = int((above / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == launcher:
                    return int(entry.name)
                above = Path("/proc") / str(parent)
        except (OSError, ValueError, IndexError):
            continue
    return None


def find_unprivileged(root: Path, output: Path, walk: str) -> "subprocess.CompletedProcess[str]":
    """Run find.py so that mode bits count: even root lacks what they deny when these two capabilities are gone."""
    if os.getuid() == 0:
        need_program("setpriv")
    rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    return subprocess.run(
        [*rights, sys.executable, str(REPOSITORY / "find.py"), str(root), "-o", str(output)],
        env=os.environ | {"LADING_WALK": walk},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("walk", ["core", "python"])
@pytest.mark.parametrize(("mode", "says"), [(0, "cannot be read"), (0o400, "cannot be entered"), (0o100, "cannot be")])
def test_an_unreadable_root_is_one_sentence(tmp_path: Path, walk: str, mode: int, says: str) -> None:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "file").touch()
    root.chmod(mode)
    try:
        result = find_unprivileged(root, tmp_path / "o.json", walk)
    finally:
        root.chmod(0o755)
    assert result.returncode == 2, result.stderr
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_unreadable_directories(tmp_path: Path) -> None:
    """The rest is there, each is named with its errno, exit 3; without root's rights."""
    base = tmp_path
    root = base / "tree"
    try:
        (root / "closed" / "inside").mkdir(parents=True)
        (root / "listed").mkdir()
        (root / "listed" / "file").write_bytes(b"123")
        (root / "open").write_bytes(b"12345")
        (root / "closed").chmod(0)
        (root / "listed").chmod(0o400)
        for walk in ("core", "python"):
            result = find_unprivileged(root, base / "o.json", walk)
            assert result.returncode == 3, result.stderr
            assert json.loads((base / "o.json").read_text()) == [
                "tree", 0, 5, ["closed", -1, 0], ["listed", 0, 0, ["file", -1, 0]], ["open", 1, 5],
            ]  # fmt: skip
            bad = read_meta(meta_path(base / "o.json")).unreadable
            assert [(item.path, item.errno) for item in bad] == [("closed", 13), ("listed/file", 13)]
            assert "could not read closed: Permission denied" in result.stderr
            (base / "o.json").unlink()
    finally:
        for path in (root / "closed", root / "listed"):
            path.chmod(0o755)


def test_packed_and_piped(tmp_path: Path, tree: Path, run) -> None:
    expected = crawling.oracle(tree)
    result = run("find.py", tree, "-o", tmp_path / "x.json.zst")
    assert result.returncode == 0, result.stderr
    with open(tmp_path / "x.json.zst", "rb") as stream:
        assert zstandard.ZstdDecompressor().stream_reader(stream).read() == expected
    run("find.py", tree, "-o", tmp_path / "x.json")
    # The digest is that of the text, so both forms are one tree.
    assert read_meta(tmp_path / "x.meta.json").sha256 == read_tree(tmp_path / "x.json").sha256
    piped = run("find.py", tree, "-o", "-", cwd=tmp_path)
    assert piped.stdout.encode() == expected
    assert "entries:" in piped.stderr
    assert not (tmp_path / "-").exists()


def test_the_flag_for_arrays_has_no_effect(tmp_path: Path, tree: Path, run) -> None:
    """It stands in settings of earlier versions: the crawl goes on, and batch.py names what it reads."""
    result = run("find.py", tree, "--arrays", "-o", tmp_path / "x.json")
    assert result.returncode == 0, result.stderr
    assert "--arrays has no effect" in result.stderr
    assert not (tmp_path / "x.arrays").exists()
    result = run("batch.py", tree, "--file-tree", tmp_path / "x.arrays", "-o", tmp_path / "batch.json")
    assert result.returncode == 2
    assert "x.arrays is no longer read; give the find.json" in result.stderr


def test_a_packed_tree_is_cut_and_shown(tmp_path: Path, tree: Path, run) -> None:
    """batch.py and the report read find.json.zst by its name, and give what they give for find.json."""
    plain, packed = tmp_path / "plain", tmp_path / "packed"
    for directory, name in ((plain, "find.json"), (packed, "find.json.zst")):
        directory.mkdir()
        assert run("find.py", tree, "-o", directory / name).returncode == 0
        cut = run("batch.py", tree, "--file-tree", directory / name, "-o", directory / "batch.json")
        assert cut.returncode == 0, cut.stderr
        shown = run("-m", "lading", "report", "--directory", directory, "-o", directory / "page")
        assert shown.returncode == 0, shown.stderr
    first, second = (json.loads((directory / "batch.json").read_text()) for directory in (plain, packed))
    assert first["batches"]
    assert first["batches"] == second["batches"]
    assert first["settings"]["tree_sha256"] == second["settings"]["tree_sha256"]
    pages = [sorted(path.name for path in (directory / "page").rglob("*")) for directory in (plain, packed)]
    assert pages[0] == pages[1]
    assert len(pages[0]) > 1
    # The tree is found again by its name when the plan is used.
    assert bytes(load_tree(read_plan(packed / "batch.json"), packed).names) == bytes(
        read_tree(plain / "find.json").tree.names
    )


def test_ncdu_takes_the_export(tmp_path: Path, tree: Path, run) -> None:
    need_program("ncdu")
    result = run("find.py", tree, "--ncdu", "-o", tmp_path / "x.ncdu")
    assert result.returncode == 0, result.stderr
    # ncdu reads it and writes it again, without a terminal.
    again = subprocess.run(
        ["ncdu", "-0", "-f", tmp_path / "x.ncdu", "-o", tmp_path / "again"],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert again.returncode == 0, again.stderr
    listed = (tmp_path / "again").read_bytes().decode("utf-8", "surrogateescape")
    node = json.loads(listed)[3]
    assert {item["name"]: item["asize"] for item in node[1:] if isinstance(item, dict) and "asize" in item}[
        "sparse"
    ] == 15 << 40


def test_a_tree_for_reading_is_not_cut(tmp_path: Path, run) -> None:
    (tmp_path / "t").mkdir()
    run("find.py", tmp_path / "t", "--hard-links", "once", "-o", tmp_path / "find.json")
    result = run("batch.py", tmp_path / "t", "--file-tree", tmp_path / "find.json", "-o", tmp_path / "batch.json")
    assert result.returncode == 4
    assert "hard links" in result.stderr


def test_log_depth_names_directories(tmp_path: Path, run) -> None:
    (tmp_path / "t" / "a" / "b").mkdir(parents=True)
    result = run("find.py", tmp_path / "t", "--log-depth", "1", "-o", tmp_path / "x.json")
    assert sorted(line for line in result.stderr.splitlines() if line.startswith("reached")) == [
        "reached .",
        "reached a",
    ]


BAD = [
    (["missing"], 2, "does not exist"),
    (["file"], 2, "is not a directory"),
    (["dangling"], 2, "leads nowhere"),
    (["tree", "--max-workers", "0"], 2, "not a number of workers"),
    (["tree", "--exclude", "[a"], 2, "opens a bracket"),
    (["tree", "--exclude", ""], 2, "matches nothing"),
    (["tree", "--depth", "-1"], 2, "not a whole number"),
    (["tree", "--log-depth", "x"], 2, "not a whole number"),
    (["tree", "--max-rate", "0"], 2, "not a whole number"),
    (["tree", "--links", "maybe"], 2, "invalid choice"),
    (["tree", "-o", "nowhere/find.json"], 1, "not a directory"),
    ([], 2, "required"),
]


@pytest.mark.parametrize(("arguments", "code", "says"), BAD, ids=[says for _, _, says in BAD])
def test_bad_input_is_one_sentence(tmp_path: Path, run, arguments: list[str], code: int, says: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "tree").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    result = run("find.py", *arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert says in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.glob("*.json"))


def test_bad_root_over_ranks_is_said_once(tmp_path: Path) -> None:
    result = mpi(3, tmp_path / "missing", "-o", tmp_path / "o.json")
    assert result.returncode == 2
    assert result.stderr.count("does not exist") == 1


def test_full_disk(tmp_path: Path, run) -> None:
    """One sentence, no half of a file: a file-size limit stands for the full disk."""
    for i in range(3000):
        (tmp_path / "tree" / f"a-rather-long-name-{i:05}").mkdir(parents=True)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000)); "
        "import find; from lading.core.command_line import run_main; "
        "sys.exit(run_main(find.main))"
    )
    result = run("-c", code, tmp_path / "tree", "-o", tmp_path / "find.json", cwd=REPOSITORY)
    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot write")
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_interrupt_ends_it_soon(tmp_path: Path) -> None:
    for i in range(200):
        (tmp_path / "tree" / str(i)).mkdir(parents=True)
    command = [sys.executable, str(REPOSITORY / "find.py"), str(tmp_path / "tree"), "--max-rate", "5"]
    with subprocess.Popen([*command, "-o", str(tmp_path / "o.json")], stderr=subprocess.PIPE, text=True) as job:
        time.sleep(3)
        job.send_signal(signal.SIGINT)
        _, said = job.communicate(timeout=30)
    assert job.returncode == 130, said
    assert "interrupted" in said
    assert not list(tmp_path.glob("*.json"))


def test_make_keeps_off_login_nodes(tmp_path: Path, make) -> None:
    """Where Slurm exists, outside of a job, the crawl is refused unless here=1."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "sbatch").write_text("#!/bin/sh\n")
    (tools / "sbatch").chmod(0o755)
    (tmp_path / "tree").mkdir()
    path = f"{tools}:{os.environ['PATH']}"
    refused = make("find.json", "here=", release=tmp_path / "tree", PATH=path)
    assert refused.returncode == 2
    assert "login node" in refused.stderr
    assert not (tmp_path / "find.json").exists()
    allowed = make("find.json", release=tmp_path / "tree", PATH=path)
    assert allowed.returncode == 0, allowed.stderr
    assert stat.S_ISREG((tmp_path / "find.json").stat().st_mode)
