"""Many small files by one line of s5cmd: what the links must carry, survive and never do."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lading.core.opening import Root
from lading.objectstore.manner import Manner
from lading.objectstore.target import FailureKind
from lading.upload.engines import bundle as bundles
from lading.upload.engines import s5cmd as module
from lading.upload.engines.base import TransferOutcome, UploadTask, send
from lading.upload.engines.bundle import FILE_BYTES, PREFIX, Bundle, Links, fits, sort_out
from lading.upload.engines.s5cmd import S5cmdEngine
from tests.conftest import need_program
from tests.integration.test_engines import MIB, ODD_KEYS, World, children, drain
from tests.servers import faults
from tests.servers.faults import Stall


@pytest.fixture
def world(s3, bucket: str, tmp_path: Path) -> World:
    (tmp_path / "data").mkdir()
    return World(s3, bucket, tmp_path / "data")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the engines of a test keep their links."""
    (tmp_path / "links").mkdir()
    return tmp_path / "links"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[Bundle]:
    """Every bundle that was given to s5cmd."""
    seen: list[Bundle] = []
    real = module.bundle_line

    def note(bundle: Bundle, bucket: str, manner: Manner) -> str:
        seen.append(bundle)
        return real(bundle, bucket, manner)

    monkeypatch.setattr(module, "bundle_line", note)
    return seen


@pytest.fixture
def make(world: World, place: Path) -> Iterator[Callable[..., S5cmdEngine]]:
    with contextlib.ExitStack() as ends:

        def build(**settings) -> S5cmdEngine:
            engine = S5cmdEngine(world.target(**settings), Links([str(place)]))
            ends.callback(engine.close)
            return engine

        yield build


def small(world: World, count: int, folder: str = "d") -> list[UploadTask]:
    return [world.file(f"{folder}/{n:03d}".encode(), b"%d" % n) for n in range(count)]


def paired(tasks: list[UploadTask]) -> list[tuple[UploadTask, str]]:
    return [(task, task.path) for task in tasks]


def replace_by(what: str, path: Path, secret: Path) -> None:
    path.unlink()
    if what == "a symbolic link":
        path.symlink_to(secret)
    elif what == "a directory":
        path.mkdir()
        (path / "foreign").write_text("not to be sent")
    elif what == "a pipe":
        os.mkfifo(path)
    elif what == "another file":
        path.write_bytes(secret.read_bytes())


def settle(engine: S5cmdEngine, tasks: list[UploadTask]) -> dict[str, TransferOutcome]:
    """Submit all, await all; each must come out once."""
    for task in tasks:
        engine.submit(task)
    assert engine.outstanding == len(tasks)
    outcomes = drain(engine, len(tasks))
    assert sorted(o.task.key for o in outcomes) == sorted(t.key for t in tasks)
    assert engine.outstanding == 0
    assert engine.poll(0.1) == []
    return {o.task.key: o for o in outcomes}


def entries(place: Path) -> list[Path]:
    return sorted(place.rglob("*"))


# -- the directory itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "size", "fit"),
    [
        ("a", 0, True),
        ("a/b c/.d", FILE_BYTES, True),
        ("1 MB", MIB, True),
        ("...", 1, True),
        ("a", FILE_BYTES + 1, False),
        ("/a", 1, False),
        ("a/", 1, False),
        ("a//b", 1, False),
        (".", 1, False),
        ("a/./b", 1, False),
        ("../a", 1, False),
        ("a/..", 1, False),
        ("", 1, False),
        ("é" * 127, 1, True),
        ("é" * 128, 1, False),
        ("star*", 1, False),
        ("what?", 1, False),
        ("two  blanks", 1, False),
        ("blank at the end ", 1, False),
    ],
)
def test_what_fits(key: str, size: int, fit: bool) -> None:
    assert fits(UploadTask("/x", key, size, 0)) is fit


def test_sorting_out_keeps_all_and_mixes_neither_types_nor_depths() -> None:
    tasks = [UploadTask("/x", key, 1, 0, kind) for key in ("a", "a/b", "a/b/c", "d", "e/f") for kind in ("t/1", "t/2")]
    groups = sort_out(tasks)
    assert sorted(t.key for group in groups for t in group) == sorted(t.key for t in tasks)
    for group in groups:
        assert len({(t.content_type, t.key.count("/")) for t in group}) == 1
        keys = {t.key for t in group}
        assert not any(a != b and b.startswith(a + "/") for a in keys for b in keys)


def test_links_are_private_and_go_with_the_last_outcome(place: Path, tmp_path: Path) -> None:
    links = Links([str(place)])
    tasks = [UploadTask(str(tmp_path / "t"), f"a/b{n}/c", 1, 0) for n in range(3)]
    bundle = links.bundle(paired(tasks))
    assert bundle
    (root,) = place.iterdir()
    assert root.stat().st_mode & 0o777 == 0o700
    assert [os.readlink(bundle.link(task)) for task in tasks] == [task.path for task in tasks]
    for task in tasks[:2]:
        bundle.finish(task)
    assert os.path.islink(bundle.link(tasks[0]))
    bundle.finish(tasks[2])
    assert entries(place) == [root]
    links.close()
    assert entries(place) == []


def test_a_layout_that_cannot_be_is_none_and_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    links = Links([str(place)])
    twice = paired([UploadTask("/x", "a/b", 1, 0), UploadTask("/y", "a/b", 1, 0)])
    assert links.bundle(twice) is None
    assert [path for path in entries(place) if path.parent != place] == []
    assert (
        links.bundle(paired([UploadTask("/x", "/".join(["n" * 250] * 20), 1, 0)])) is None
    )  # longer than a path can be
    assert [path for path in entries(place) if path.parent != place] == []

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "symlink", full)
        assert links.bundle(paired([UploadTask("/x", "a/b", 1, 0)])) is None
    assert [path for path in entries(place) if path.parent != place] == []
    links.close()


def test_no_folder_is_made_through_a_link(place: Path, tmp_path: Path) -> None:
    """Were a/b/c put below the link a/b, something would appear in the user's directory."""
    (tmp_path / "source").mkdir()
    links = Links([str(place)])
    tasks = [
        UploadTask(str(tmp_path / "source"), "a/b", 1, 0),
        UploadTask("/x", "a/b/c", 1, 0),
        UploadTask("/x", "a/b/c/d", 1, 0),
    ]
    assert links.bundle(paired(tasks)) is None
    assert list((tmp_path / "source").iterdir()) == []
    links.close()


@pytest.mark.parametrize("places", [["/nonexistent/place"], ["/proc"], [], ["/tmp/a,b"], ["/tmp/a b"]])
def test_without_a_place_there_are_no_bundles(places: list[str]) -> None:
    links = Links(places)
    assert links.bundle(paired([UploadTask("/x", "a", 1, 0)])) is None
    links.close()


def test_the_default_place_is_in_memory() -> None:
    links = Links()
    bundle = links.bundle(paired([UploadTask("/x", "a", 1, 0)]))
    try:
        assert bundle
        assert not os.access("/dev/shm", os.W_OK) or bundle.folder.startswith(f"/dev/shm/{PREFIX}")
    finally:
        links.close()
    assert bundle
    assert not os.path.exists(os.path.dirname(bundle.folder))


OWNER = """
import sys
from lading.upload.engines.bundle import Links
from lading.upload.engines.base import UploadTask
links = Links([sys.argv[1]])
print(links.bundle([(UploadTask("/x", "a/b", 1, 0), "/x")]).folder, flush=True)
sys.stdin.read()
"""


def owner(place: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", OWNER, str(place)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_run_left_is_swept_and_what_lives_is_not(place: Path) -> None:
    dead, alive = owner(place), owner(place)
    try:
        assert dead.stdout
        assert alive.stdout
        left, used = (Path(child.stdout.readline().strip()) for child in (dead, alive))
        dead.kill()
        dead.wait()
        (place / (PREFIX + "file")).write_text("no directory")
        (place / "lading-other").mkdir()
        os.symlink(place / "lading-other", place / (PREFIX + "link"))
        assert (left / "a/b").is_symlink()
        links = Links([str(place)])
        assert links.bundle(paired([UploadTask("/x", "a", 1, 0)]))
        assert not left.parent.exists()
        assert (used / "a/b").is_symlink()
        assert (place / "lading-other").is_dir()
        links.close()
    finally:
        for child in (dead, alive):
            child.kill()
            child.communicate()


def test_another_users_directory_is_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / (PREFIX + "theirs")).mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        bundles.sweep(str(place))
    assert (place / (PREFIX + "theirs")).is_dir()
    bundles.sweep(str(place))
    assert not (place / (PREFIX + "theirs")).exists()


def test_where_a_walk_halted() -> None:
    bundle = Bundle("/m/7", "t/t")
    keys = ["a/x", "b/a: b", "b/b", "b-c/x", "c/z"]  # the walk takes b before b-c, though '-' sorts before '/'
    order = ["a/x", "b/a: b", "b/b", "b-c/x", "c/z"]
    bundle.waiting = {key: UploadTask("/real/" + key, key, 1, 0) for key in reversed(keys)}

    def unsent(message: str) -> list[str] | None:
        found = bundle.unsent(message)
        return None if found is None else sorted((t.key for t in found), key=order.index)

    assert unsent("given object /m/7/b/b not found") == ["b/b", "b-c/x", "c/z"]
    assert unsent("stat /m/7/b/b: no such file or directory") == ["b-c/x", "c/z"]
    assert unsent("stat /m/7/b/b: permission denied") == ["b/b", "b-c/x", "c/z"]
    assert unsent("stat /m/7/b/a: b: permission denied") == ["b/a: b", "b/b", "b-c/x", "c/z"]
    assert unsent("open /m/7/b: too many open files") == ["b/a: b", "b/b", "b-c/x", "c/z"]
    assert unsent("given object /m/7/b/b/foreign not found") == ["b-c/x", "c/z"]
    assert unsent("given object /m/7/ not found") == order
    assert unsent("given object /m/77/a not found") is None
    assert unsent("something else") is None


# -- with the real s5cmd and server ------------------------------------------------------------------------------------


def test_hostile_names_share_a_line(world: World, make, lines: list[Bundle], place: Path) -> None:
    names = [*ODD_KEYS, "a: b", "x" * 255, "://", "%2F", "tilde~", "comma,semi;colon:", "=1", "..two", "nul\ufffd"]
    names = [name for name in names if "/" not in name]
    tasks = [world.file(name.encode(), name.encode(), key="odd/" + name) for name in names]
    tasks += [world.file(b"plain", b"at the top", key="top"), world.file(b".h", b"h", key=".hidden/.deep/.file")]
    shared = {task.key for task in tasks if fits(task)}
    outcomes = settle(make(workers=32), tasks)
    assert {key: o.message for key, o in outcomes.items() if not o.ok} == {}
    assert {task.key: world.body(task.key) for task in tasks} == {t.key: Path(t.path).read_bytes() for t in tasks}
    assert world.keys() == {task.key for task in tasks}
    assert len(lines) == 1, "those of one depth went by one line"
    assert len(shared) >= 25
    assert [path for path in entries(place) if path.parent != place] == []


def test_types_are_kept_apart(world: World, make, lines: list[Bundle]) -> None:
    tasks = [world.file(b"t/%d" % n, b"x", content_type=f"text/x-{n % 3}") for n in range(30)]
    assert all(o.ok for o in settle(make(workers=16), tasks).values())
    assert len(lines) == 3
    for n in (0, 1, 2, 28, 29):
        head = world.s3.head_object(Bucket=world.bucket, Key=f"t/{n}")
        assert head["ContentType"] == f"text/x-{n % 3}"


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
def test_keys_below_keys_and_all_odd_names_on_the_gateway(
    gateway, bucket: str, tmp_path: Path, lines: list[Bundle]
) -> None:
    """One key a folder of another; and a server that keeps every name as it is."""
    (tmp_path / "data").mkdir()
    world = World(gateway, bucket, tmp_path / "data")
    tasks = []
    for n in range(8):
        tasks += [world.file(b"%d-%d" % (n, d), b"%d %d" % (n, d), key=f"k{n}" + "/s" * d) for d in range(4)]
    tasks += [world.file(name.encode(), name.encode(), key="odd/" + name) for name in ODD_KEYS]
    engine = S5cmdEngine(world.target(workers=32))
    try:
        outcomes = settle(engine, tasks)
        assert {key: o.message for key, o in outcomes.items() if not o.ok} == {}
        assert world.keys() == {task.key for task in tasks}
        assert all(world.body(task.key) == Path(task.path).read_bytes() for task in tasks)
        assert len(lines) == 4
    finally:
        engine.close()


def test_files_that_vanish_take_nobody_with_them(world: World, make, lines: list[Bundle]) -> None:
    engine = make(workers=32)
    before = children()
    tasks = small(world, 60)
    gone = {tasks[n].key for n in (0, 17, 18, 40, 59)}
    for task in tasks:
        engine.submit(task)
    assert lines == [], "held until poll"
    for task in tasks:
        if task.key in gone:
            os.unlink(task.path)
    outcomes = {o.task.key: o for o in drain(engine, 60)}
    assert len(lines) == 1
    assert {key for key, o in outcomes.items() if not o.ok} == gone
    for key in gone:
        assert outcomes[key].failure is FailureKind.OBJECT
        assert outcomes[key].message == "No such file or directory"
    assert len(outcomes) == 60
    assert world.keys() == {task.key for task in tasks} - gone
    assert len(children() - before) == 1
    assert settle(engine, small(world, 10, "again"))["again/003"].ok


def test_a_tree_that_vanishes_converges(world: World, make) -> None:
    """Files go while they are sent: whatever comes of each, it comes once."""
    engine = make(workers=8)
    tasks = small(world, 400)
    left = iter(tasks[::3])
    found: list[TransferOutcome] = []

    def feed() -> Iterator[UploadTask]:
        for task in tasks:
            victim = next(left, None)
            if victim:
                os.unlink(victim.path)
            yield task

    found = list(send(engine, feed()))
    assert sorted(o.task.key for o in found) == sorted(t.key for t in tasks)
    assert {o.failure for o in found} == {None, FailureKind.OBJECT}
    victims = {task.key for task in tasks[::3]}
    assert {o.task.key for o in found if not o.ok} <= victims
    assert all(PREFIX not in o.message for o in found)


UNREADABLE = """
import json, os, sys
from lading.core.opening import Root
from lading.objectstore.target import Target
from lading.upload.engines.base import UploadTask, send
from lading.upload.engines.s5cmd import S5cmdEngine
root, bucket, endpoint = sys.argv[1:]
names = ["%03d" % n for n in range(12)]
tasks = [UploadTask(f"{root}/d/{name}", f"d/{name}", 3, 0, "text/x-test") for name in names]
tasks.append(UploadTask(f"{root}/large", "large", 9 << 20, 0))
engine = S5cmdEngine(Target(bucket, endpoint, 32, root=Root(root)))
print(json.dumps([[o.task.key, o.failure, o.message] for o in send(engine, tasks)]))
engine.close()
"""


def test_unreadable_files_fail_alone_and_under_their_own_name(world: World) -> None:
    """As a user who may not read them: their names are found, but s5cmd cannot open what they stand for."""
    rights = []
    if os.geteuid() == 0:
        need_program("setpriv")
        rights = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    tasks = [*small(world, 12), world.file(b"large", b"x" * (9 * MIB))]
    for n in (3, 7, 12):
        os.chmod(tasks[n].path, 0)
    command = [*rights, sys.executable, "-c", UNREADABLE, str(world.directory), world.bucket, world.server.endpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    outcomes = {key: (failure, message) for key, failure, message in json.loads(done.stdout)}
    assert len(outcomes) == 13
    failed = {key: outcome for key, outcome in outcomes.items() if outcome[0]}
    assert failed == {
        task.key: ("object", f"open {task.path}: permission denied") for task in (tasks[3], tasks[7], tasks[12])
    }


@pytest.mark.parametrize("put", ["a symbolic link", "a directory", "a pipe"])
def test_what_took_a_files_place_before_the_line_fails_alone(world: World, make, lines, put: str) -> None:
    engine = make(workers=32, root=Root(world.directory))
    secret = world.file(b"../secret", b"not to be sent")
    tasks = small(world, 20)
    for task in tasks:
        engine.submit(task)
    for n in (0, 5, 19):
        replace_by(put, Path(tasks[n].path), Path(secret.path))
    outcomes = {o.task.key: o for o in drain(engine, 20)}
    assert len(lines) == 1
    told = {key: (o.failure, o.message) for key, o in outcomes.items() if not o.ok}
    assert told == {f"d/{n:03d}": (FailureKind.OBJECT, f"it is {put} now") for n in (0, 5, 19)}
    assert world.keys() == {task.key for n, task in enumerate(tasks) if n not in (0, 5, 19)}
    assert engine.outstanding == 0


@pytest.mark.parametrize("put", ["a symbolic link", "a directory", "a pipe", "nothing", "another file"])
def test_what_takes_a_files_place_after_the_line_is_not_sent(world: World, make, lines, put: str) -> None:
    """Two are under way, the walk waits for a worker: s5cmd opens the others' descriptors, whatever their names are."""
    secret = world.file(b"../secret", b"not to be sent")
    with faults.serve(world.server, lambda request: Stall(2) if 0 < request.put <= 2 else None) as proxy:
        engine = make(workers=2, endpoint=proxy.endpoint, root=Root(world.directory))
        tasks = small(world, 8)
        for task in tasks:
            engine.submit(task)
        found = engine.poll(1.0)
        assert lines
        assert found == []
        for task in tasks:
            replace_by(put, Path(task.path), Path(secret.path))
        found += drain(engine, 8 - len(found))
    assert {o.failure for o in found} == {None}
    assert {key: world.body(key) for key in sorted(world.keys())} == {f"d/{n:03d}": b"%d" % n for n in range(8)}


def test_descriptors_are_given_back(world: World, make) -> None:
    engine = make(workers=32)
    before = len(os.listdir("/proc/self/fd"))
    tasks = [*small(world, 60), *(world.file(b"large%d" % n, b"x" * (9 * MIB)) for n in range(2))]
    for task in tasks[::7]:
        os.unlink(task.path)
    settle(engine, tasks)
    engine.close()
    assert len(os.listdir("/proc/self/fd")) <= before


def test_with_few_descriptors_all_goes_on(world: World) -> None:
    """The window is what descriptors allow."""
    small(world, 100)
    program = UNREADABLE.replace("range(12)", "range(100)").replace("tasks.append", "str").replace(
        "import json", "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); import json"
    )  # fmt: skip
    command = [sys.executable, "-c", program, str(world.directory), world.bucket, world.server.endpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [outcome for outcome in json.loads(done.stdout) if outcome[1]] == []
    assert len(world.keys()) == 100


def test_where_descriptors_cannot_be_shared_nothing_is_accepted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "descriptor_folder", lambda: None)
    assert not S5cmdEngine(world.target()).can_share
    assert S5cmdEngine(world.target()).accepts(world.file(b"x", b"x")) is not None
    monkeypatch.setattr(module, "descriptor_folder", lambda: "/proc/1/fd-none")
    assert not S5cmdEngine(world.target()).can_share


def test_killed_in_the_middle_all_is_told_and_nothing_left(world: World, make, lines, place: Path) -> None:
    engine = make(workers=4)
    before = children()
    tasks = [world.file(b"k/%02d" % n, os.urandom(4 * MIB)) for n in range(24)]
    for task in tasks:
        engine.submit(task)
    outcomes = drain(engine, 1)
    assert lines
    for pid in children() - before:
        os.kill(pid, signal.SIGKILL)
    outcomes += drain(engine, 24 - len(outcomes))
    assert sorted(o.task.key for o in outcomes) == sorted(t.key for t in tasks)
    assert {o.failure for o in outcomes} == {None, FailureKind.TRANSIENT}
    assert [path for path in entries(place) if path.parent != place] == []
    assert all(o.ok for o in settle(engine, tasks).values())


def test_close_in_the_middle_leaves_nothing(world: World, make, lines, place: Path) -> None:
    engine = make(workers=4)
    for n in range(24):
        engine.submit(world.file(b"c/%02d" % n, os.urandom(4 * MIB)))
    drain(engine, 1)
    assert lines
    assert [path for path in entries(place) if path.is_symlink()]
    engine.close()
    assert entries(place) == []
    assert engine.outstanding == 0
    assert all(o.ok for o in settle(engine, small(world, 8)).values())
    engine.close()
    assert entries(place) == []


def test_an_error_that_nobody_understands_ends_the_child_and_tells_all(world: World, make, lines) -> None:
    engine = make(workers=4)
    tasks = [world.file(b"u/%02d" % n, os.urandom(4 * MIB)) for n in range(8)]
    for task in tasks:
        engine.submit(task)
    outcomes = drain(engine, 1)
    engine._hear(f"cp --raw=true {lines[0].folder}/ s3://{world.bucket}/", "no idea what this is")
    outcomes += drain(engine, 8 - len(outcomes))
    assert sorted(o.task.key for o in outcomes) == sorted(t.key for t in tasks)
    assert {o.failure for o in outcomes} == {None, FailureKind.TRANSIENT}
    assert any("no idea what this is" in o.message for o in outcomes)
    assert all(o.ok for o in settle(engine, tasks).values())


@pytest.mark.parametrize("moment", ["before the walk", "between bundles"])
def test_links_that_someone_clears_away_fail_nothing_for_good(
    world: World, make, place: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd does in /dev/shm when a user logs out."""
    engine = make(workers=32)
    if moment == "before the walk":
        real = module.bundle_line

        def clear(bundle: Bundle, bucket: str, manner: Manner) -> str:
            bundle.remove()
            return real(bundle, bucket, manner)

        with monkeypatch.context() as patch:
            patch.setattr(module, "bundle_line", clear)
            assert all(o.ok for o in settle(engine, small(world, 20)).values())
    else:
        assert all(o.ok for o in settle(engine, small(world, 20)).values())
        for root in place.iterdir():
            shutil.rmtree(root)
        assert all(o.ok for o in settle(engine, small(world, 20, "second")).values())
        assert list(place.iterdir()) == []
    assert all(o.ok for o in settle(engine, small(world, 20, "third")).values())
    assert len(list(place.iterdir())) == 1


def test_without_a_place_lines_of_their_own_serve(world: World, lines) -> None:
    engine = S5cmdEngine(world.target(workers=8), Links(["/nonexistent"]))
    try:
        assert all(o.ok for o in settle(engine, small(world, 40)).values())
        assert len(world.keys()) == 40
        assert lines == []
    finally:
        engine.close()


def test_two_engines_at_once(world: World, make, place: Path, lines) -> None:
    first, second = make(workers=16), make(workers=16)
    ours, theirs = small(world, 30, "ours"), small(world, 30, "theirs")
    for a, b in zip(ours, theirs):
        first.submit(a)
        second.submit(b)
    found = [*drain(first, 30), *drain(second, 30)]
    assert [o.message for o in found if not o.ok] == []
    assert world.keys() == {t.key for t in [*ours, *theirs]}
    assert len(list(place.iterdir())) == 2
    first.close()
    assert len(list(place.iterdir())) == 1
    assert all(o.ok for o in settle(second, small(world, 30, "more")).values())


@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_few_tasks_wait_for_nobody(world: World, make, count: int) -> None:
    """With little credit, or at the end, a bundle never fills."""
    engine = make(workers=32)
    for task in small(world, count):
        engine.submit(task)
    start = time.monotonic()
    assert len(drain(engine, count, 30)) == count
    assert time.monotonic() - start < 20


def test_the_window_narrows_while_many_bytes_are_on_their_way(world: World, make) -> None:
    engine = make(workers=4)
    assert engine.window == 32
    large = [world.file(b"large%d" % n, os.urandom(5 * MIB)) for n in range(2)]
    for task in large:
        engine.submit(task)
    assert engine.window == 8
    assert len(drain(engine, 2)) == 2
    assert engine.window == 32
    engine.submit(large[0])
    engine.submit(large[1])
    engine.close()
    assert engine.window == 32
