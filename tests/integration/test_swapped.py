"""What was crawled is what is sent: nobody publishes another file by putting a link in a file's place.

The secret stands for what only the data manager may read; the swaps are what
the owner of the data can do at any moment.
"""

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lading.core.opening import Root, SeenFile
from lading.objectstore.target import FailureKind, Target
from lading.testing.s3_server import Server
from lading.upload.engines.base import Engine, UploadTask, send
from lading.upload.engines.bundle import Links
from lading.upload.engines.s5cmd import S5cmdEngine
from tests.conftest import mostly_long
from tests.integration.test_engines import ENGINES, MIB, World, server_with_parts
from tests.servers import faults
from tests.servers.faults import Stall
from tests.shipping import Site, make_site, write_files

SECRET = b"not for the public"  # as long as the content, so that no size gives it away
CONTENT = b"what was crawled.."
WAYS: dict[str, Callable[[Target], Engine]] = ENGINES | {
    "s5cmd, a line each": lambda target: S5cmdEngine(target, Links(["/nonexistent"])),
}


@pytest.fixture
def world(
    s3: Server, bucket: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    (tmp_path / "release").mkdir()
    (tmp_path / "secret").write_bytes(SECRET)
    way = getattr(request.node, "callspec", None)
    with server_with_parts(s3, str(way.params.get("make")) if way else "", monkeypatch) as server:
        yield World(server, bucket, tmp_path / "release")


@pytest.fixture(params=mostly_long(WAYS, *(name for name in WAYS if name != "crt")))
def make(request: pytest.FixtureRequest, world: World) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def build(**settings: object) -> Engine:
        engines.append(WAYS[request.param](world.target(root=Root(world.directory), **settings)))
        return engines[-1]

    yield build
    for engine in engines:
        engine.close()


def looked_at(world: World, name: str, content: bytes = CONTENT) -> UploadTask:
    """A task as the preparation makes it."""
    task = world.file(name.encode(), content)
    return replace(task, seen=SeenFile.of(os.lstat(task.path)))


def put(kind: str, path: Path, secret: Path) -> None:
    if kind == "another file":  # beside the old one: else it may have that one's inode
        path.with_name("new").write_bytes(SECRET + b", and more of it")
        path.with_name("new").rename(path)
        return
    path.unlink()
    if kind == "a symbolic link":
        path.symlink_to(secret)
    elif kind == "a directory":
        path.mkdir()
        (path / "foreign").write_bytes(SECRET)
    else:
        os.mkfifo(path)


TOLD = {
    "a symbolic link": "it is a symbolic link now",
    "a directory": "it is a directory now",
    "a pipe": "it is a pipe now",
    "another file": "another file of another size is in its place now",
}


def test_what_took_a_files_place_since_it_was_looked_at_is_not_sent(make, world: World, tmp_path: Path) -> None:
    """Small files and files in parts; a link to the secret, within the release, of a directory above."""
    large = CONTENT + b"\0" * (51 * MIB)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_bytes(SECRET)
    expected: dict[str, str] = {}
    tasks: list[UploadTask] = []
    for size, content in (("small", CONTENT), ("large", large)):
        for kind, told in TOLD.items():
            for count in range(2):
                task = looked_at(world, f"{size}/{kind}{count}", content)
                put(kind, Path(task.path), tmp_path / "secret")
                tasks.append(task)
                expected[task.key] = told
        task = looked_at(world, f"{size}-in/d/file", content)
        shutil.move(world.directory / f"{size}-in/d", tmp_path / f"{size}-away")
        (world.directory / f"{size}-in/d").symlink_to(tmp_path / "other")
        tasks.append(task)
        expected[task.key] = f"the directory {size}-in/d above it is a symbolic link now"
        task = looked_at(world, f"{size}-within", content)
        put("a symbolic link", Path(task.path), world.directory / "good")
        tasks.append(task)
        expected[task.key] = "it is a symbolic link now"
    good = [looked_at(world, "good"), looked_at(world, "good-large", large)]
    outcomes = {o.task.key: o for o in send(make(), [*tasks, *good])}
    assert {key: o.message for key, o in outcomes.items() if not o.ok} == expected
    assert {o.failure for o in outcomes.values()} == {None, FailureKind.OBJECT}
    assert world.keys() == {"good", "good-large"}


@pytest.mark.parametrize("kind", ["a symbolic link", pytest.param("another file", marks=pytest.mark.long)])
def test_what_takes_a_files_place_while_it_is_sent_is_not_sent(make, world: World, tmp_path: Path, kind: str) -> None:
    """With the first bytes on their way, every file is swapped; of those that wait and of later parts too."""
    large = CONTENT + os.urandom(MIB) * 101
    (tmp_path / "secret").write_bytes(SECRET[:1] * len(large))
    tasks = [looked_at(world, "large", large), *(looked_at(world, f"small/{n}") for n in range(12))]
    swapped: list[str] = []

    def swap(request: faults.Request) -> faults.Fault | None:
        if request.put and not swapped:
            for task in tasks:
                swapped.append(task.key)
                put(kind, Path(task.path), tmp_path / "secret")
            return Stall(1)
        return None

    with faults.serve(world.server, swap) as proxy:
        outcomes = list(send(make(workers=3, endpoint=proxy.endpoint), tasks))
    assert len(swapped) == len(outcomes) == 13
    # The threads notice that the file's state changed; its bytes may be there by then, but never another file's.
    assert {o.message for o in outcomes if not o.ok} <= {TOLD[kind], "it changed while it was sent"}
    sent, held = {o.task.key for o in outcomes if o.ok}, world.keys()
    assert held
    assert sent <= held
    for key in sorted(held):
        assert world.body(key) == (large if key == "large" else CONTENT), "what was looked at"


def swap_in_a_loop(world: World, make: Callable[..., Engine], secret: Path, count: int) -> None:
    """Send files each of which is a link to the secret half of the time; nothing but their own bytes arrives."""
    links = world.directory.parent / "links"
    links.mkdir()
    tasks = [looked_at(world, f"d{n % 7}/{n}", b"%-18d" % n) for n in range(count)]
    own = {task.key: hashlib.md5(Path(task.path).read_bytes()).hexdigest() for task in tasks}
    for n, _ in enumerate(tasks):
        (links / str(n)).symlink_to(secret)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for n, task in enumerate(tasks):
                spare = links / f"{n}-file"
                os.rename(task.path, spare)
                os.rename(links / str(n), task.path)
                os.rename(task.path, links / str(n))
                os.rename(spare, task.path)
                if n % 50 == 0:
                    time.sleep(0)
            for folder in range(7):
                aside = links / f"d{folder}"
                os.rename(world.directory / f"d{folder}", aside)
                os.symlink(secret.parent, world.directory / f"d{folder}")
                os.unlink(world.directory / f"d{folder}")
                os.rename(aside, world.directory / f"d{folder}")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        outcomes = list(send(make(workers=16), tasks))
    finally:
        stop.set()
        thread.join()
    assert len(outcomes) == count
    pages = world.s3.get_paginator("list_objects_v2").paginate(Bucket=world.bucket)
    held = {item["Key"]: item["ETag"].strip('"') for page in pages for item in page.get("Contents", [])}
    assert {key for key, etag in held.items() if etag != own[key]} == set()
    assert set(held) >= {o.task.key for o in outcomes if o.ok}
    messages = {o.message for o in outcomes if not o.ok}
    known = ("symbolic link", "No such file", "it changed while it was sent")
    assert all(any(told in message for told in known) for message in messages), messages


def test_swapped_in_a_loop(make, world: World, tmp_path: Path) -> None:
    swap_in_a_loop(world, make, tmp_path / "secret", 300)


@pytest.mark.long
def test_a_thousand_swapped_in_a_loop(make, world: World, tmp_path: Path) -> None:
    swap_in_a_loop(world, make, tmp_path / "secret", 1000)


# -- as a user meets it ------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, s3: Server, bucket: str) -> Site:
    site = make_site(tmp_path, s3, bucket)
    write_files(
        site.release, {b"night/%02d" % n: 4000 + n for n in range(12)} | {b"tile/%02d" % n: 900 for n in range(6)}
    )
    return site


@pytest.mark.parametrize("engine", mostly_long(["s5cmd", "crt", "obstore", "boto3"], "s5cmd"))
def test_links_that_came_after_the_crawl_are_failed_items(site: Site, tmp_path: Path, engine: str) -> None:
    secret, other = tmp_path / "secret", tmp_path / "other"
    secret.write_bytes(b"s" * 4003)
    other.mkdir()
    for n in range(6):
        (other / f"{n:02d}").write_bytes(b"s" * 900)
    site.plan("--min-batch-size", "1k", "--max-batch-size", "100k")
    victim = site.release / "night/03"
    content = victim.read_bytes()
    put("a symbolic link", victim, secret)
    (site.release / "tile").rename(tmp_path / "tile")
    (site.release / "tile").symlink_to(other)
    os.unlink(site.release / "night/05")
    os.mkfifo(site.release / "night/05")
    done = site.upload("--engine", engine)
    assert done.returncode == 3, done.stderr
    told = done.stdout + done.stderr
    assert "it is a symbolic link now" in told
    assert "the directory tile above it is a symbolic link now" in told
    assert "it is a pipe now" in told
    nights = {f"dr1/night/{n:02d}" for n in range(12)}
    assert set(site.listing()) == nights - {"dr1/night/03", "dr1/night/05"}
    checked = site.verify()
    assert checked.returncode in (3, 4), checked.stderr
    # Put right, the same command ends well.
    victim.unlink()
    victim.write_bytes(content)
    (site.release / "tile").unlink()
    (tmp_path / "tile").rename(site.release / "tile")
    os.unlink(site.release / "night/05")
    (site.release / "night/05").write_bytes(b"x" * 4005)
    assert site.upload("--engine", engine).returncode == 0
    assert len(site.listing()) == 18


@pytest.mark.parametrize(
    ("engine", "edition"),
    mostly_long([("s5cmd", "this"), ("crt", "this"), ("obstore", "this"), ("boto3", "earlier")], ("s5cmd", "this")),
)
def test_followed_links_are_sent_as_they_were_crawled(site: Site, tmp_path: Path, engine: str, edition: str) -> None:
    (tmp_path / "raw/0001").mkdir(parents=True)
    write_files(tmp_path / "raw", {b"0001/%d" % n: 700 for n in range(6)} | {b"single": 51 * MIB})
    (site.release / "linked").symlink_to(tmp_path / "raw/0001")
    (site.release / "single").symlink_to(tmp_path / "raw/single")
    site.plan("--min-batch-size", "1k", "--max-batch-size", "100M", find=("--links", "follow"))
    plan = site.directory / "batch.json"
    record = json.loads(plan.read_text())
    assert record["settings"]["links"] == "follow"
    if edition == "earlier":
        del record["settings"]["links"]
        plan.write_text(json.dumps(record))
    os.unlink(tmp_path / "raw/0001/2")
    os.mkfifo(tmp_path / "raw/0001/2")
    done = site.upload("--engine", engine)
    assert done.returncode == 3, done.stderr
    assert "it is a pipe now" in done.stdout + done.stderr
    os.unlink(tmp_path / "raw/0001/2")
    (tmp_path / "raw/0001/2").write_bytes(b"2" * 700)
    done = site.upload("--engine", engine)
    assert done.returncode == 0, done.stderr
    listed = site.listing()
    assert len(listed) == 18 + 7
    assert listed["dr1/linked/2"] == (700, hashlib.md5(b"2" * 700).hexdigest())
    assert site.verify().returncode == 0
