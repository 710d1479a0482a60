"""Every file of a manifest is reached from the superdataset by one chain of links, whatever lies beside what."""

import hashlib
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lading.core.errors import ConsistencyError
from lading.mirror import comparison, dataset, layout, superdataset, update
from lading.mirror import last_run as unchanged
from lading.mirror.config import load_config
from lading.mirror.dataset import OWN
from lading.mirror.engine import DatasetUpdate, write_by_import
from lading.mirror.git.annex import blob_sha
from lading.mirror.git.commands import Held
from lading.mirror.git.fast_import import COMMIT
from lading.mirror.source import read_source
from lading.mirror.split import Splitter, link_parents, unreachable
from tests.annex_oracle import write_by_annex
from tests.conftest import need_program
from tests.mirrors import (
    Bucket,
    Listed,
    allow_loopback,
    content,
    datalad,
    git,
    head,
    heads,
    repository,
    stores,
    update_with,
)

FIRST = "ecephys_1_2024-05-27_16-07-59"
SECOND = "ecephys_12_2024-05-27_16-07-59"
SORTED = FIRST + "_sorted_2024-06-01_10-00-00"
THIRD = "behavior_7_2023-01-02_03-04-05"


# Without git


class FakeGit:
    """Repositories in memory: refs to commits, commits to trees, with the meaning of fast-import's changes."""

    def __init__(self) -> None:
        self.refs: dict[tuple[Path, str], str] = {}
        self.trees: dict[str, dict[bytes, Held]] = {}
        self.blobs: dict[bytes, bytes] = {}
        self.epochs: dict[str, int] = {}

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for module in (comparison, dataset, superdataset, unchanged, update):
            for name in ("resolve", "list_tree", "tree_entries", "read_blobs", "commit_epoch", "run"):
                if hasattr(module, name):
                    patch.setattr(module, name, getattr(self, name))
        patch.setattr(layout, "create_bare", lambda where, _: where.mkdir(parents=True))

    def resolve(self, where: Path, name: str) -> str | None:
        return self.refs.get((where, name))

    def list_tree(self, where: Path, commit: str) -> dict[bytes, Held]:
        return self.trees[self.refs.get((where, commit), commit)]

    def tree_entries(self, where: Path, commit: str) -> Iterable[tuple[bytes, Held]]:
        return self.list_tree(where, commit).items()

    def read_blobs(self, _: Path, shas: Iterable[bytes]) -> Iterator[bytes]:
        return (self.blobs[sha] for sha in shas)

    def commit_epoch(self, _: Path, commit: str) -> int:
        return self.epochs[commit]

    def run(self, arguments: list[str], where: Path) -> bytes:
        if arguments == ["update-server-info"]:
            return b""
        assert arguments[:2] == ["cat-file", "blob"]
        commit, _, path = arguments[2].partition(":")
        return self.blobs[self.list_tree(where, commit)[path.encode()].sha]

    def write(self, write: DatasetUpdate) -> bool:
        if not write.changes:
            return False
        where = write.dataset.repository
        tree = dict(self.trees[write.parent]) if write.parent else {}
        for change in write.changes:
            below = change.path + b"/"
            above = {change.path[:end] for end, byte in enumerate(change.path) if byte == 0x2F}
            tree = {p: e for p, e in tree.items() if p != change.path and not p.startswith(below) and p not in above}
            if change.mode is not None:
                sha = change.data if change.mode == COMMIT else blob_sha(change.data)
                self.blobs[sha] = change.data
                tree[change.path] = Held(change.mode, sha)
        text = repr((str(where), write.parent, sorted(tree.items()), write.message, write.epoch))
        commit = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.trees[commit], self.epochs[commit] = tree, write.epoch
        self.refs[where, "refs/heads/main"] = commit
        return True

    def reached(self, commit: str | None, above: bytes = b"") -> Iterator[str]:
        """Every file that a recursive clone of ``commit`` has, once for each way to it."""
        for path, entry in self.trees[commit].items() if commit else ():
            if entry.mode == COMMIT:
                yield from self.reached(entry.sha.decode(), above + path + b"/")
            elif not OWN.match(path):
                yield (above + path).decode()


PARTS = ["lab", "a", "ab", "a-b", "x.zarr", FIRST, SECOND, SORTED, "f", "zarr.json"]
PATHS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("/".join)
RULES = st.sampled_from(["job", "job", "job", "top", "depth=2", "depth=3"])


def directories(path: str) -> set[str]:
    return {path[:end] for end, char in enumerate(path) if char == "/"}


def coexisting(paths: Iterable[str]) -> list[str]:
    """The paths that a file system could hold together: none of them is a directory of another."""
    above = set().union(*(directories(path) for path in paths)) if paths else set()
    return sorted(set(paths) - above)


def clash(one: str, other: str) -> bool:
    return one == other or one.startswith(other + "/") or other.startswith(one + "/")


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.lists(PATHS, max_size=9).map(coexisting), st.booleans(), RULES, st.integers(0, 2)),
        min_size=1,
        max_size=4,
    )
)
def test_every_path_is_reached_exactly_once(steps: list[tuple[list[str], bool, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        fake = FakeGit()
        fake.install(patch)
        listing = Listed(Path("/nonexistent"))
        reached: set[str] = set()
        for number, (paths, complete, rule, tag) in enumerate(steps):
            listing.rows.clear()
            for path in paths:
                listing.put(path, b"%d %s" % (tag, path.encode()))
            overrides = {"split_by": rule, "backup_root": folder, "zarrs": {"path": "zarrs"}, "max_removed": 1.0}
            source = read_source(listing.write(Path(folder, f"{number}.zst"), complete=complete))
            stores = layout.MirrorLayout(load_config(None, overrides), source.header)
            stores.prepare()
            published = True
            try:
                run = update.Update(comparison.compare(stores, source), lambda _: None, fake.write)
                failed = run.run().failed
            except ConsistencyError:
                published, failed = False, {}
            found = Counter(fake.reached(fake.resolve(stores.dataset("super", "").repository, "refs/heads/main")))
            assert all(count == 1 for count in found.values()), found
            if complete:
                assert published
                assert not failed
                assert found.keys() == set(paths)
            else:
                kept = {path for path in reached if not any(clash(path, new) for new in paths)}
                assert kept <= found.keys()
                if published and not failed:
                    assert set(paths) <= found.keys()
            reached = set(found)


@given(st.lists(PATHS, min_size=1, max_size=12).map(coexisting), RULES, st.data())
def test_a_wrong_link_or_a_wrong_place_is_found(paths: list[str], rule: str, data: Any) -> None:
    splitter = Splitter(rule, frozenset())
    known = {splitter.place(path).dataset for path in paths} | {""}
    # Rules that know no sessions put files beside them into datasets that hide them.
    links = link_parents(known)
    hidden = {path for path in known if any(path in directories(other) for other in known)}
    for path in sorted(hidden):
        wrong = {**links, **{other: "" for other in known if path in directories(other)}}
        assert any(path != found for found, _ in unreachable(splitter, wrong)), path
    if links:
        lost = data.draw(st.sampled_from(sorted(links)))
        rest = {path: parent for path, parent in links.items() if path != lost}
        assert list(unreachable(splitter, rest)), lost


def test_splitting_beside_sessions() -> None:
    shared = frozenset({"lab", "lab/2024"})
    splitter = Splitter("job", frozenset(), shared)
    for path, wanted in (
        (f"lab/2024/{FIRST}/raw/f", f"lab/2024/{FIRST}"),
        ("lab/2024/notes.txt", ""),
        ("lab/loose.csv", ""),
        ("lab/2023/a/f", "lab/2023"),
        ("other/a/f", "other"),
        ("README", ""),
    ):
        assert splitter.place(path).dataset == wanted, path
    assert Splitter("top", frozenset(), shared).place("lab/2024/notes.txt").dataset == "lab"
    held = Splitter("job", frozenset(), shared, frozenset({"lab"}))
    assert held.place("lab/2023/a/f").dataset == "lab"
    assert held.place(f"lab/2024/{FIRST}/raw/f").dataset == f"lab/2024/{FIRST}"


# With git, git-annex and DataLad


def installed(tmp_path: Path, name: str = "clone") -> Path:
    """A clone with everything installed, the way a user does it."""
    need_program("git-annex", "datalad")
    datalad("clone", f"ria+file://{stores(tmp_path)}#~super", name, cwd=tmp_path)
    datalad("get", "-n", "-r", ".", cwd=tmp_path / name)
    return tmp_path / name


def listed_files(clone: Path) -> list[str]:
    """Every file of a clone with its subdatasets, without what they say of themselves."""
    names = git("ls-files", "-z", "--recurse-submodules", cwd=clone).decode().split("\0")[:-1]
    own = (".datalad", ".mirror", ".gitmodules", ".gitattributes")
    return sorted(name for name in names if not set(name.split("/")) & set(own))


def modules(clone: Path) -> list[str]:
    text = git("config", "-f", ".gitmodules", "--get-regexp", r"\.path$", cwd=clone).decode()
    return sorted(line.split(" ", 1)[1] for line in text.splitlines())


def sessions(listing: Listed) -> None:
    listing.rows.clear()
    for session in (FIRST, SECOND, SORTED):
        for number in range(3):
            listing.put(f"lab/{session}/raw/f{number}.dat", session.encode() + b"%d" % number)
        listing.put(f"lab/{session}/img.zarr/zarr.json", b"{}")
    listing.put("odd/f.dat", b"odd")
    listing.put("stack.ome.zarr/zarr.json", b"{}")


@pytest.mark.long
def test_a_file_beside_sessions_hides_none(mirror, listing, tmp_path) -> None:
    sessions(listing)
    listing.put("lab/loose.csv", b"loose")
    mirror(listing, "update")
    assert "agrees" in mirror(listing, "verify")
    clone = installed(tmp_path)
    assert listed_files(clone) == sorted(listing.rows)
    assert modules(clone) == sorted([*(f"lab/{name}" for name in (FIRST, SECOND, SORTED)), "odd", "stack.ome.zarr"])
    assert not git("status", "--porcelain", cwd=clone)
    assert "nothing changed" in mirror(listing, "update")


@pytest.mark.long
def test_a_file_that_comes_and_goes_moves_no_session(mirror, listing, tmp_path) -> None:
    sessions(listing)
    mirror(listing, "update")
    before = heads(stores(tmp_path))
    clone = installed(tmp_path)
    listing.put("lab/notes.txt", b"later")
    assert "1 dataset updated" not in mirror(listing, "update")
    after = heads(stores(tmp_path))
    main = str(repository(tmp_path, "").relative_to(stores(tmp_path).resolve()))
    assert {name for name in after if before.get(name) != after[name]} == {
        f"{main} refs/heads/main",
        f"{main} refs/heads/git-annex",
    }
    assert "agrees" in mirror(listing, "verify")
    # A clone of before goes on, with the sessions that it has installed.
    git("pull", "-q", "--ff-only", cwd=clone)
    assert not git("status", "--porcelain", cwd=clone)
    assert listed_files(clone) == sorted(listing.rows)
    listing.rows.pop("lab/notes.txt")
    mirror(listing, "update", "--gc-assets")
    assert listed_files(installed(tmp_path, "other")) == sorted(listing.rows)
    assert "agrees" in mirror(listing, "verify")


@pytest.mark.long
def test_a_directory_becomes_shared_and_is_one_dataset_again(mirror, listing, tmp_path) -> None:
    listing.rows.clear()
    listing.put("lab/loose.csv", b"loose")
    listing.put("lab/more/f.dat", b"more")
    mirror(listing, "update")
    assert list(records(tmp_path)) == ["", "lab"]
    listing.put(f"lab/{FIRST}/f.dat", b"session")
    # Nothing of the dataset is gone, it is elsewhere: no bound is in the way.
    mirror(listing, "update")
    assert list(records(tmp_path)) == ["", f"lab/{FIRST}", "lab/more"]
    assert "agrees" in mirror(listing, "verify")
    listing.rows.pop(f"lab/{FIRST}/f.dat")
    mirror(listing, "update", "--gc-assets")
    assert list(records(tmp_path)) == ["", "lab"]
    assert "agrees" in mirror(listing, "verify")
    assert listed_files(installed(tmp_path)) == sorted(listing.rows)


def records(tmp_path: Path) -> dict[str, Any]:
    text = git("show", "main:.mirror/datasets.json", cwd=repository(tmp_path, ""))
    found: dict[str, Any] = json.loads(text)["datasets"]
    return found


@pytest.mark.long
def test_until_the_manifest_is_complete_no_dataset_is_taken_apart(mirror, listing, tmp_path) -> None:
    listing.rows.clear()
    listing.put("lab/loose.csv", b"loose")
    listing.put("lab/more/f.dat", b"more")
    mirror(listing, "update")
    everything = dict(listing.rows)
    listing.rows.clear()
    listing.put(f"lab/{FIRST}/f.dat", b"session")
    listing.put("lab/new.csv", b"new")
    everything.update(listing.rows)
    mirror(listing, "update", complete=False)
    assert list(records(tmp_path)) == ["", "lab", f"lab/{FIRST}"]
    assert "agrees" in mirror(listing, "verify", complete=False)
    assert listed_files(installed(tmp_path)) == sorted(everything)
    session = head(repository(tmp_path, f"lab/{FIRST}"))
    listing.rows = everything
    mirror(listing, "update")
    assert list(records(tmp_path)) == ["", f"lab/{FIRST}", "lab/more"]
    assert head(repository(tmp_path, f"lab/{FIRST}")) == session
    assert "agrees" in mirror(listing, "verify")


@pytest.mark.long
def test_a_file_turns_into_a_directory_and_back(mirror, listing, tmp_path) -> None:
    listing.rows.clear()
    for number in range(4):
        listing.put(f"s/f{number}.dat", b"%d" % number)
    listing.put("thing", b"a file")
    listing.put("s/part", b"a file")
    versions = [dict(listing.rows)]
    listing.rows.pop("thing")
    listing.rows.pop("s/part")
    listing.put("thing/a", b"in a directory")
    listing.put("s/part/a/b", b"in a directory")
    versions.append(dict(listing.rows))
    for engine in (write_by_import, write_by_annex):
        for number, rows in enumerate([versions[0], versions[1], versions[0]]):
            listing.rows = dict(rows)
            update_with(engine, listing, tmp_path, gc_assets=True)
            assert "agrees" in mirror(listing, "verify")
            assert listed_files(installed(tmp_path, f"{engine.__name__}{number}")) == sorted(rows)
        stores(tmp_path).rename(tmp_path / f"{engine.__name__}-store")


def test_a_store_that_appears_in_a_session_is_no_removal(mirror, listing, tmp_path) -> None:
    for number in range(8):
        listing.put(f"a/x.zarr/c/{number}", b"%d" % number)
    mirror(listing, "update")
    listing.put("a/x.zarr/zarr.json", b"{}")
    # The manifest is not complete and lacks chunks that the session has: they must not vanish behind a link.
    lacking = dict(listing.rows)
    listing.rows.pop("a/x.zarr/c/7")
    said = mirror(listing, "update", complete=False, code=3)
    assert "a: x.zarr/c/7 would be lost" in said
    listing.rows = lacking
    mirror(listing, "update")
    assert "agrees" in mirror(listing, "verify")


def test_a_dataset_below_a_file_is_refused_before_anything_is_written(mirror, listing, tmp_path) -> None:
    sessions(listing)
    mirror(listing, "update")
    before = heads(stores(tmp_path))
    listing.put("lab", b"a file")
    listing.put("odd/g.dat", b"new")
    for verb in ("update", "verify"):
        said = mirror(listing, verb, code=4)
        assert f"lab/{SECOND}: lab is a file and a directory in the manifest" in said
    assert heads(stores(tmp_path)) == before
    # Within one dataset, only this one waits.
    listing.rows.pop("lab")
    listing.put("odd/f.dat/x", b"below a file")
    listing.put(f"lab/{FIRST}/new.dat", b"new")
    assert "odd: the manifest has a file and a directory of one name: f.dat" in mirror(listing, "update", code=3)
    listing.rows.pop("odd/f.dat/x")
    mirror(listing, "update")
    assert "agrees" in mirror(listing, "verify")


@pytest.mark.parametrize("path", ["../x.json", "/etc/x.json", "a//x", "a/./x", "a/..", "", "a/\0x", "a/\ud800"])
def test_a_path_that_no_release_has_is_refused(mirror, listing, tmp_path, path) -> None:
    mirror(listing, "update")
    before = heads(stores(tmp_path))
    row = listing.put("a/d/g", b"x")
    del listing.rows["a/d/g"]
    listing.rows[path] = type(row)(**{**{f: getattr(row, f) for f in row.__slots__}, "path": path})
    said = mirror(listing, "update", code=4)
    # Text that no file system has as a name is refused by the manifest's reader already.
    assert ("not a manifest row" if path in ("a/\0x", "a/\ud800") else "nothing was published") in said
    assert heads(stores(tmp_path)) == before


@pytest.mark.long
@pytest.mark.xdist_group("rgw")
def test_two_manifests_into_two_stores_come_back_whole(gateway, bucket, run, tmp_path) -> None:
    need_program("git-annex", "datalad")
    gateway.make_bucket(bucket, versioned=True)
    allow_loopback()
    for name in ("one", "two"):
        store = Bucket(gateway.client(), bucket, gateway.endpoint, tmp_path / "root", prefix=f"{name}/")
        store.open_to_all()
        for session, number in itertools.product((FIRST, SECOND, THIRD), range(2)):
            store.put(f"lab/{session}/f{number}.bin", f"{name} {session} {number}".encode())
        store.put(f"lab/{FIRST}/img.zarr/zarr.json", b"{}")
        store.put("lab/loose.csv", name.encode())
        # A remap sent this one elsewhere in the bucket.
        key = f"{name}/remapped/{THIRD}"
        answer = gateway.client().put_object(Bucket=bucket, Key=key, Body=b"moved " + name.encode())
        store.put(f"lab/{THIRD}/moved.bin", b"moved " + name.encode(), key=key, version_id=answer["VersionId"])
        files = {path: gateway.client().get_object(Bucket=bucket, Key=row.key)["Body"].read()
                 for path, row in store.rows.items()}  # fmt: skip
        config = tmp_path / f"{name}.yaml"
        config.write_text(f"datasets: {{path: {name}}}\nzarrs: {{path: {name}-zarrs}}\n")
        manifest = store.write(tmp_path / f"{name}.zst")
        for verb in ("update", "verify"):
            done = run("-m", "lading", "mirror", "-c", config, "-m", manifest, "-B", tmp_path, verb, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
        datalad("clone", f"ria+file://{tmp_path}/{name}#~super", f"clone-{name}", cwd=tmp_path)
        datalad("get", "-n", "-r", ".", cwd=tmp_path / f"clone-{name}")
        datalad("get", "-r", ".", cwd=tmp_path / f"clone-{name}")
        assert content(tmp_path / f"clone-{name}") == files
