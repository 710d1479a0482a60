"""The mirror's repositories without a server: trees, identities, settings, releases, pushes, kills."""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lading.core.errors import UsageError
from lading.mirror.config import Config, load_config
from lading.mirror.git.annex import merge
from lading.mirror.git.annex_keys import link_target, make_key, suffixes
from lading.mirror.hosts.github import GitHub
from lading.mirror.split import Splitter, repository_path
from tests.annex_oracle import write_by_annex
from tests.conftest import ODD_NAMES, need_program
from tests.mirrors import ZARRS, Listed, git, head, heads, repository, stores, tree, update_with

KILLS = int(os.environ.get("LADING_KILLS", "10"))


# Keys


def test_keys_equal_examinekey(tmp_path) -> None:
    need_program("git-annex")
    git("init", "-q", tmp_path / "r", cwd=tmp_path)
    names = [
        *ODD_NAMES,
        b"a.tar.gz",
        b"a..gz",
        b"a.",
        b".a.b",
        b"x.12345",
        b"x.1234.5",
        b"x.b_c.gz",
        b"x\n.gz",
        "é.é".encode(),
        "x.ééé".encode(),
        b"A.TXT",
        b"n",
        b"x.a.b.c",
        b'"q".nii.gz',
        b"-x.dat",
        b"x.\xe9",
    ]
    ours = suffixes(names, tmp_path / "r")
    for name in names:
        asked = git("annex", "examinekey", "--migrate-to-backend=SHA256E", b"--filename=" + name, "SHA256-s3--aa",
                    cwd=tmp_path / "r")  # fmt: skip
        assert asked == make_key("SHA256E", 3, "aa", ours[name]) + b"\n", name


@given(
    st.lists(
        st.sampled_from(
            [
                b".git",
                b"%2Egit",
                b"%252Egit",
                b"git~1",
                b".GIT",
                b".git ",
                b"a",
                b".datalad",
                b"%2Edatalad",
                b".gitmodules",
                b"%67it~1",
                b"%25",
            ]
        ),
        min_size=1,
        max_size=3,
    )
)
def test_no_two_files_share_a_repository_path(parts: list[bytes]) -> None:
    # Undoing the one escape gives the name back, so two names cannot meet.
    escaped = repository_path(b"/".join(parts)).split(b"/")
    undone = [bytes([int(p[1:3], 16)]) + p[3:] if re.match(rb"%(2E|67|47|25)", p) else p for p in escaped]
    assert undone == parts
    assert all(p.rstrip(b" .").lower() not in (b".git", b".gitmodules", b"git~1") for p in escaped)
    assert escaped[0] not in (b".datalad", b".mirror")


def test_split_rules() -> None:
    path = "lab/ecephys_1_2020-01-02_03-04-05/raw/x.zarr/0/0"
    zarrs = frozenset({"lab/ecephys_1_2020-01-02_03-04-05/raw/x.zarr"})
    assert Splitter("job", frozenset()).place(path).dataset == "lab/ecephys_1_2020-01-02_03-04-05"
    assert Splitter("top", frozenset()).place(path).dataset == "lab"
    assert Splitter("depth=3", frozenset()).place(path).dataset == "lab/ecephys_1_2020-01-02_03-04-05/raw"
    assert Splitter("depth=9", frozenset()).place(path).dataset == ""
    assert Splitter("job", zarrs).place(path).path == "0/0"
    assert Splitter("job", frozenset()).place("file").dataset == ""


def test_lines_of_others_stay() -> None:
    theirs = b"5s 1 http://elsewhere/x\n7s 0 http://gone/y\n"
    ours = [b"9s 1 http://here/x"]
    merged = merge(theirs, ours)
    assert merged == theirs + b"9s 1 http://here/x\n"
    assert merge(merged, [b"11s 1 http://here/x"]) == merged


# Updates


def test_one_commit_for_exactly_the_change(mirror, listing, tmp_path) -> None:
    mirror(listing, "update")
    first = heads(stores(tmp_path))
    assert "nothing changed" in mirror(listing, "update")
    assert heads(stores(tmp_path)) == first
    listing.put("a/d/new.dat", b"new")
    listing.put("a/d/f0.dat", b"changed")
    listing.rows.pop("a/d/f5.dat")
    said = mirror(listing, "update")
    assert "a: 1 added, 1 changed, 1 removed" in said
    changed = git("diff", "--name-status", "main^", "main", cwd=repository(tmp_path, "a")).decode().split()
    assert changed == ["M", "d/f0.dat", "D", "d/f5.dat", "A", "d/new.dat"]
    moved = {name for name, sha in heads(stores(tmp_path)).items() if first[name] != sha}
    assert not any(str(repository(tmp_path, "b").relative_to(stores(tmp_path))) in name for name in moved)
    verify = mirror(listing, "verify")
    assert "agrees" in verify


def test_a_new_manifest_of_the_same_files_makes_no_commit(mirror, listing, tmp_path) -> None:
    mirror(listing, "update")
    first = heads(stores(tmp_path))
    listing.created_at = "2030-01-01"
    assert "nothing changed" in mirror(listing, "update")
    assert heads(stores(tmp_path)) == first


def test_equal_input_gives_equal_commits_elsewhere(mirror, listing, tmp_path, run) -> None:
    mirror(listing, "update")
    first = heads(stores(tmp_path))
    other = tmp_path / "other"
    other.mkdir()
    result = run("-m", "lading", "mirror", "-c", tmp_path / "mirror.yaml", "-m", tmp_path / "manifest.jsonl.zst", "-B",
                 other, "update", cwd=tmp_path)  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert heads(other / "datasets") == first


def test_a_new_version_of_the_same_bytes_adds_its_url_only(mirror, listing, tmp_path) -> None:
    listing.put("a/d/f0.dat", b"same", version_id="v1")
    mirror(listing, "update")
    main = head(repository(tmp_path, "a"))
    row = listing.put("a/d/f0.dat", b"same", version_id="v2")
    mirror(listing, "update")
    assert head(repository(tmp_path, "a")) == main
    key = make_key("SHA256E", row.size, row.sha256 or "", b".dat")
    logs = [p for p in tree(repository(tmp_path, "a"), "git-annex") if p.endswith(key + b".log.web")]
    text = git("show", b"git-annex:" + logs[0], cwd=repository(tmp_path, "a"))
    assert b"versionId=v1" in text
    assert b"versionId=v2" in text


@pytest.mark.long
def test_git_annex_itself_makes_the_same_of_it(mirror, listing, tmp_path) -> None:
    for name in ODD_NAMES:
        listing.put(b"odd/" + name, b"x" + name)
    listing.put_local("a/README.md", b"text\n")
    listing.put("a/README.md", b"text\n")

    def states() -> dict[str, object]:
        found = {}
        for path in ("", "a", "b", "odd"):
            where = repository(tmp_path, path)
            annex = {p: git("show", b"git-annex:" + p, cwd=where) for p in tree(where, "git-annex") if b".web" in p}
            urls = {p: sorted(line.split(b" ", 1)[1] for line in text.splitlines()) for p, text in annex.items()}
            found[path] = (tree(where, "main") if path else None, urls)
        return found

    mirror(listing, "update")
    ours = states()
    (tmp_path / "datasets").rename(tmp_path / "ours")
    update_with(write_by_annex, listing, tmp_path)
    assert states() == ours
    listing.put("a/d/f0.dat", b"changed")
    listing.rows.pop("a/d/f1.dat")
    update_with(write_by_annex, listing, tmp_path)
    annex = states()
    (tmp_path / "datasets").rename(tmp_path / "annex")
    (tmp_path / "ours").rename(tmp_path / "datasets")
    # Settings of earlier versions, where git-annex' own commands were an engine, are still taken.
    mirror(listing, "update", config="engine: portable\n")
    assert states() == annex


def test_rows_without_checksum_are_refused_and_the_rest_done(mirror, listing, tmp_path) -> None:
    mirror(listing, "update")
    before = head(repository(tmp_path, "a"))
    listing.put("a/d/f0.dat", b"new", sha256=None, md5=None)
    listing.put("b/d/f0.dat", b"new")
    said = mirror(listing, "update", code=3)
    assert "a: d/f0.dat" in said or "a/d/f0.dat: the manifest has no checksum" in said
    assert head(repository(tmp_path, "a")) == before
    listed = git("ls-tree", "main", cwd=repository(tmp_path, "")).decode().splitlines()
    linked = {line.split()[3]: line.split()[2] for line in listed if " commit " in line}
    assert linked == {"a": before, "b": head(repository(tmp_path, "b"))}
    listing.put("a/d/f0.dat", b"new")
    mirror(listing, "update")
    assert head(repository(tmp_path, "a")) != before


def test_md5_only_rows_get_md5_keys(mirror, listing, tmp_path) -> None:
    row = listing.put("a/d/f0.dat", b"only md5", sha256=None)
    mirror(listing, "update")
    target = git("cat-file", "blob", "main:d/f0.dat", cwd=repository(tmp_path, "a"))
    assert target == link_target(b"d/f0.dat", make_key("MD5E", row.size, row.md5 or "", b".dat"))


def test_a_store_with_an_object_in_parts_is_mirrored(mirror, listing, tmp_path) -> None:
    """Manifests of earlier editions have no MD5 of such an object."""
    listing.put("a/x.zarr/zarr.json", b"{}")
    row = listing.put("a/x.zarr/c/0", b"sent in parts", md5=None)
    listing.put("a/x.zarr/c/1", b"present before", sha256=None)
    mirror(listing, "update")
    where = repository(tmp_path, "a/x.zarr")
    target = git("cat-file", "blob", "main:c/0", cwd=where)
    assert target == link_target(b"c/0", make_key("SHA256E", row.size, row.sha256 or "", b""))
    assert b"MD5E-" in git("cat-file", "blob", "main:c/1", cwd=where)
    assert ".mirror/zarr-checksum" not in git("ls-tree", "-r", "--name-only", "main", cwd=where).decode()
    assert "agrees" in mirror(listing, "verify")
    # A manifest of this edition has both.
    listing.put("a/x.zarr/c/0", b"sent in parts")
    mirror(listing, "update")
    assert b"MD5E-" in git("cat-file", "blob", "main:c/0", cwd=where)
    assert ".mirror/zarr-checksum" in git("ls-tree", "-r", "--name-only", "main", cwd=where).decode()
    assert "agrees" in mirror(listing, "verify")


def test_what_has_no_checksum_is_told_in_plain_sentences(mirror, listing) -> None:
    listing.put("a/x.zarr/zarr.json", b"{}", sha256=None, md5=None)
    for number in range(30):
        listing.put(f"a/n{number}", b"x", sha256=None, md5=None)
    said = mirror(listing, "update", code=3)
    assert "\\n" not in said
    assert "and 10 more" in said
    assert "make verify verify_flags=--adopt=download" in said


def test_removals_need_a_complete_manifest_and_a_bound(mirror, listing, tmp_path) -> None:
    mirror(listing, "update")
    before = heads(stores(tmp_path))
    for number in range(4):
        listing.rows.pop(f"a/d/f{number}.dat")
    mirror(listing, "update", complete=False)
    assert len(tree(repository(tmp_path, "a"), "main")) == len(tree(repository(tmp_path, "b"), "main"))
    said = mirror(listing, "update", code=3)
    assert "4 of 6 files would be removed" in said
    main = f"{repository(tmp_path, 'a').relative_to(stores(tmp_path))} refs/heads/main"
    assert heads(stores(tmp_path))[main] == before[main]
    assert "4 removed" in mirror(listing, "update", "--gc-assets")


def test_mode_verify_refuses_an_unannounced_change(mirror, listing, tmp_path) -> None:
    mirror(listing, "update")
    row = listing.rows["a/d/f0.dat"]
    listing.rows["a/d/f0.dat"] = dataclasses.replace(row, sha256=hashlib.sha256(b"else").hexdigest())
    assert "nothing" in mirror(listing, "update")
    assert "mode verify: 0 added, 1 changed" in mirror(listing, "update", "--mode", "verify", code=3)
    assert "1 changed" in mirror(listing, "update", "--mode", "force")


def test_asset_filter_leaves_the_rest(mirror, listing, tmp_path) -> None:
    mirror(listing, "update")
    listing.put("a/d/f0.dat", b"changed")
    listing.put("a/d/f1.dat", b"changed too")
    listing.rows.pop("a/d/f2.dat")
    mirror(listing, "update", "--asset-filter", r"f0\.dat$")
    changed = git("diff", "--name-status", "main^", "main", cwd=repository(tmp_path, "a")).decode().split()
    assert changed == ["M", "d/f0.dat"]
    assert "1 changed, 1 removed" in mirror(listing, "update")


def test_text_goes_into_git_only_when_proven(mirror, listing, tmp_path) -> None:
    listing.put_local("a/README.md", b"about\n")
    listing.put("a/README.md", b"about\n")
    listing.put_local("a/stale.json", b"not what was uploaded")
    listing.put("a/stale.json", b"{}")
    mirror(listing, "update")
    where = repository(tmp_path, "a")
    assert git("cat-file", "blob", "main:README.md", cwd=where) == b"about\n"
    assert b"annex/objects" in git("cat-file", "blob", "main:stale.json", cwd=where)


@pytest.mark.parametrize(
    "answer", [b"", b"no http at all\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nx"]
)
def test_a_server_that_answers_nonsense_costs_no_dataset(mirror, listing, tmp_path, answer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    with connection:
                        connection.recv(65536)
                        connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            listing.put("a/README.md", b"about\n")
            mirror(listing, "--s3endpoint", f"http://127.0.0.1:{server.getsockname()[1]}", "update")
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert b"annex/objects" in git("cat-file", "blob", "main:README.md", cwd=repository(tmp_path, "a"))
    assert head(repository(tmp_path, "b"))


# Zarr


def test_zarr_checksum_is_dandis(mirror, listing, tmp_path) -> None:
    judge = pytest.importorskip("zarr_checksum")
    from zarr_checksum.generators import yield_files_local

    files = {".zgroup": b"{}", "0/.zarray": b"[]", "0/0.0": b"chunk", "0/1.0": b"chunk", "10/é/x": b"", "2/y": b"z"}
    for name, data in files.items():
        listing.put(f"a/img.zarr/{name}", data)
        target = tmp_path / "store" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    expected = str(judge.compute_zarr_checksum(yield_files_local(tmp_path / "store")))
    mirror(listing, "update")
    assert mirror(listing, "zarr-checksum", "a/img.zarr").strip() == expected
    where = repository(tmp_path, "a/img.zarr")
    assert git("cat-file", "blob", "main:.mirror/zarr-checksum", cwd=where).decode().strip() == expected
    assert b"MD5E-" in git("cat-file", "blob", "main:0/0.0", cwd=where)
    link = git("ls-tree", "main", "img.zarr", cwd=repository(tmp_path, "a")).decode().split()
    assert link[:3] == ["160000", "commit", head(where)]
    # A chunk changes: its dataset, the session above it and the superdataset follow.
    listing.put("a/img.zarr/0/0.0", b"other")
    mirror(listing, "update", "--zarr-mode", "checksum")
    assert git("ls-tree", "main", "img.zarr", cwd=repository(tmp_path, "a")).decode().split()[2] == head(where)
    assert "agrees" in mirror(listing, "verify")


def links(where: Path) -> dict[str, str]:
    """The subdatasets that a commit and its .gitmodules name, which must be the same."""
    listed = git("ls-tree", "-r", "-z", "main", cwd=where).decode().split("\0")
    found = {line.split("\t")[1]: line.split()[2] for line in listed if line.startswith("160000")}
    named = git("config", "--blob", "main:.gitmodules", "--get-regexp", r"\.path$", cwd=where) if found else b""
    assert sorted(line.split()[1] for line in named.decode().splitlines()) == sorted(found)
    return found


def test_a_filter_leaves_the_links_to_zarrs(mirror, listing, tmp_path) -> None:
    listing.put("a/t.csv", b"1")
    for session in ("a", "b"):
        listing.put(f"{session}/x.zarr/zarr.json", b"{}")
    mirror(listing, "update", config="candidates: [{name: lab, url: 'ria+file:///x#{id}'}]\n")
    before = links(repository(tmp_path, "a"))
    assert list(before) == ["x.zarr"]
    unfiltered = heads(stores(tmp_path))
    listing.put("a/t.csv", b"2")
    config = "candidates: [{name: lab, url: 'ria+file:///x#{id}'}]\n"
    said = mirror(listing, "update", "--asset-filter", "[.]csv$", config=config)
    assert "a: 0 added, 1 changed, 0 removed" in said
    assert links(repository(tmp_path, "a")) == before
    changed = git("diff", "--name-only", "main^", "main", cwd=repository(tmp_path, "a")).decode().split()
    assert changed == ["t.csv"]
    b = f"{repository(tmp_path, 'b').relative_to(stores(tmp_path))} refs/heads/main"
    assert heads(stores(tmp_path))[b] == unfiltered[b]
    assert "agrees" in mirror(listing, "verify", config=config)
    mirror(listing, "update", config=config)
    assert "agrees" in mirror(listing, "verify", config=config)


@pytest.mark.parametrize("lacking", ["metadata", "all"])
@pytest.mark.long
def test_a_zarr_stays_one_while_the_manifest_lacks_its_metadata(mirror, listing, tmp_path, lacking) -> None:
    for name in ("zarr.json", "0/zarr.json", "0/c/0", "0/c/1"):
        listing.put(f"a/x.zarr/{name}", name.encode())
    mirror(listing, "update")
    rows = dict(listing.rows)
    zarr, session = repository(tmp_path, "a/x.zarr"), repository(tmp_path, "a")
    # An upload is under way: the store's own metadata is not proven yet, something else is new.
    for name in ("zarr.json",) if lacking == "metadata" else ("zarr.json", "0/zarr.json", "0/c/0", "0/c/1"):
        listing.rows.pop(f"a/x.zarr/{name}")
    if lacking == "metadata":
        listing.put("a/x.zarr/0/c/0", b"newer")
    listing.put("a/d/new.dat", b"new")
    mirror(listing, "update", complete=False)
    assert links(session) == {"x.zarr": head(zarr)}
    assert links(repository(tmp_path, "")) == {"a": head(session), "b": head(repository(tmp_path, "b"))}
    records = json.loads(git("show", "main:.mirror/datasets.json", cwd=repository(tmp_path, "")))
    assert sorted(records["datasets"]) == ["", "a", "a/x.zarr", "b"]
    assert len(list(stores(tmp_path).glob("???/*/HEAD"))) == 4
    # How git lists them: symlinks to keys, the whole store as it was.
    assert sum(line.startswith(b"120000") for line in tree(zarr, "main")) == 4
    assert git("diff", "--name-only", "main^", "main", cwd=session) in (b"d/new.dat\nx.zarr\n", b"d/new.dat\n")
    assert "1 Zarr dataset in" in mirror(listing, "create-zarrs", complete=False)
    assert "agrees" in mirror(listing, "verify", complete=False)
    listing.rows = {**rows, **listing.rows}
    mirror(listing, "update")
    assert links(session) == {"x.zarr": head(zarr)}
    assert "agrees" in mirror(listing, "verify")
    # Only a complete manifest takes a store back.
    listing.rows.pop("a/x.zarr/zarr.json")
    listing.rows.pop("a/x.zarr/0/zarr.json")
    mirror(listing, "update", "--gc-assets")
    assert links(session) == {}
    assert "agrees" in mirror(listing, "verify")


def test_a_session_of_nothing_but_a_zarr(mirror, listing, tmp_path) -> None:
    listing.put("c/x.zarr/zarr.json", b"{}")
    mirror(listing, "update")
    assert links(repository(tmp_path, "c")) == {"x.zarr": head(repository(tmp_path, "c/x.zarr"))}
    assert "c" in links(repository(tmp_path, ""))
    dates = [git("show", "-s", "--format=%ct", "main", cwd=repository(tmp_path, p)) for p in ("c/x.zarr", "c", "")]
    assert len(set(dates)) == 1
    assert "nothing changed" in mirror(listing, "update")
    assert "agrees" in mirror(listing, "verify")


def test_zarrs_need_their_place(mirror, listing) -> None:
    listing.put("a/img.zarr/zarr.json", b"{}")
    assert "add zarrs" in mirror(listing, "update", code=2, zarrs=False)


# Settings


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("jobs: 3\nbukket: x\n", 2, "unknown key bukket"),
        ("mode: sometimes\n", 1, "mode"),
        ("datasets:\n  path: x\n  github_org: lab\nzarrs:\n  path: z\n", None, "both set or both unset"),
        ("datasets: {path: x}\ndandisets: {path: y}\n", 2, "give one"),
        ("dandisets:\n  path: x\n  colour: red\n", 3, "unknown key datasets.colour"),
        ("candidates:\n  - {name: a, url: x, cost: 1000}\n", 2, "cost"),
        ("candidates:\n  - {name: a, url: x}\n  - {name: a, url: y}\n", None, "given twice"),
        ("jobs: 1\njobs: 2\n", 2, "given twice"),
        ("split_by: depth=0\n", 1, "job, top or depth=N"),
        ("access: private\ncontent_url_regex: x\n", None, "private"),
        ("asset_filter: '('\n", 1, "regular expression"),
        ("datasets: {path: ../up}\n", 1, "below backup_root"),
        ("jobs: [\n", 2, "not YAML"),
    ],
)
def test_faults_of_settings_have_line_and_reason(tmp_path, text, line, reason) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_config(path, {})
    assert reason in str(caught.value)
    assert line is None or f"line {line}" in str(caught.value)


def test_the_documents_settings_are_accepted(tmp_path) -> None:
    given = {
        "dandi_instance": "dandi",
        "s3bucket": "b",
        "content_url_regex": "amazonaws.com/.*blobs/",
        "dandisets": {
            "path": "d",
            "github_org": "lab",
            "remote": {"name": "r", "type": "directory", "options": {"directory": "/x", "encryption": "none"}},
        },
        "zarrs": {"path": "z", "github_org": "lab"},
        "backup_root": "/y",
        "asset_filter": "x",
        "jobs": 10,
        "workers": 5,
        "force": "assets-update",
        "enable_tags": True,
        "gc_assets": False,
        "mode": "timestamp",
        "zarr_mode": "asset-checksum",
    }
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(given))
    config = load_config(path, {"jobs": 7})
    assert (config.datasets.path, config.jobs, config.zarr_mode) == ("d", 7, "asset-checksum")
    assert Config().datasets.path == "datasets"


# Releases and pushes


def test_a_release_pins_everything_and_never_moves(mirror, listing, tmp_path) -> None:
    listing.put("a/i.zarr/zarr.json", b"{}")
    mirror(listing, "update")
    first = {path: head(repository(tmp_path, path)) for path in ("", "a", "b", "a/i.zarr")}
    assert "4 datasets tagged" in mirror(listing, "release", "1.0")
    assert "already exists" in mirror(listing, "release", "1.0")
    for path, commit in first.items():
        where = repository(tmp_path, path)
        assert git("cat-file", "-t", "refs/tags/1.0", cwd=where) == b"tag\n"
        assert git("rev-parse", "1.0^{commit}", cwd=where).decode().strip() == commit
    listing.put("a/d/f0.dat", b"later")
    mirror(listing, "update")
    assert "cannot move" in mirror(listing, "release", "1.0", code=4)
    mirror(listing, "release", "0.9", "--commitish", first[""])
    assert git("rev-parse", "0.9^{commit}", cwd=repository(tmp_path, "a")).decode().strip() == first["a"]
    assert "is not a commit" in mirror(listing, "release", "3", "--commitish", "nowhere", code=2)


def test_push_to_any_host_merges_what_others_wrote(mirror, listing, tmp_path) -> None:
    hosts = tmp_path / "hosts"
    mirror(listing, "update")
    for path in ("", "a", "b"):
        name = repository(tmp_path, path).parent.name + repository(tmp_path, path).name
        git("init", "-q", "--bare", hosts / name, cwd=tmp_path)
    config = f"siblings: [{{name: host, url: '{hosts}/{{id}}'}}]\n"
    assert mirror(listing, "push", config=config).count("pushed to host") == 3
    assert "pushed" not in mirror(listing, "push", config=config)
    target = hosts / (repository(tmp_path, "a").parent.name + repository(tmp_path, "a").name)
    other = tmp_path / "other"
    git("clone", "-q", target, other, cwd=tmp_path)
    git("annex", "init", "-q", "someone", cwd=other)
    git("push", "-q", "origin", "git-annex", cwd=other)
    listing.put("a/d/f0.dat", b"later")
    assert mirror(listing, "update", "--push", config=config).count("pushed to host") == 2
    assert head(target) == head(repository(tmp_path, "a"))
    assert b"someone" in git("show", "git-annex:uuid.log", cwd=target)
    assert b"mirror" in git("show", "git-annex:uuid.log", cwd=target)


@pytest.fixture
def github(tmp_path) -> Iterator[tuple[str, list[tuple[str, str, object]]]]:
    """GitHub's API on loopback: repositories are bare ones on disk."""
    asked: list[tuple[str, str, object]] = []
    made: dict[str, Path] = {}
    private: dict[str, bool] = {}

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
            asked.append((self.command, self.path, body))
            status, answer = 404, {"message": "Not Found"}
            if self.headers.get("Authorization") != "Bearer s3cret":
                status, answer = 401, {"message": "Bad credentials"}
            elif self.command == "POST" and self.path == "/orgs/lab/repos":
                where = tmp_path / "github" / body["name"]
                git("init", "-q", "--bare", where, cwd=tmp_path)
                made[f"/repos/lab/{body['name']}"] = where
                private[f"/repos/lab/{body['name']}"] = body["private"]
                status, answer = 201, {"ssh_url": str(where), "private": body["private"]}
            elif self.command == "POST" and self.path.endswith("/releases"):
                status, answer = 201, {}
            elif self.command == "PUT" and self.path.endswith("/topics"):
                status, answer = 200, {"names": body["names"]}
            elif self.path in made:
                private[self.path] = (body or {}).get("private", private[self.path])
                status, answer = 200, {"ssh_url": str(made[self.path]), "private": private[self.path]}
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = do_PUT = _serve  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    thread.join()
    server.server_close()


def test_github_organisation(mirror, listing, tmp_path, github, monkeypatch) -> None:
    api, asked = github
    config = f"datasets: {{path: datasets, github_org: lab}}\ngithub_api: {api}\n"
    assert "no GitHub token" in mirror(listing, "update", "--push", config=config, code=2, zarrs=False)
    monkeypatch.setenv("GITHUB_TOKEN", "wr0ng")
    said = mirror(listing, "push", config=config, code=3, zarrs=False)
    assert "401" in said
    assert "wr0ng" not in said
    git("config", "--global", "hub.oauthtoken", "s3cret", cwd=tmp_path)
    monkeypatch.delenv("GITHUB_TOKEN")
    mirror(listing, "push", config=config, zarrs=False)
    assert {body["name"] for verb, path, body in asked if verb == "POST"} == {"a", "b", "bucket"}
    for path, name in (("", "bucket"), ("a", "a"), ("b", "b")):
        assert head(tmp_path / "github" / name) == head(repository(tmp_path, path))
    assert f'url = "{api}/lab/a"' in git("show", "main:.gitmodules", cwd=repository(tmp_path, "")).decode()
    before = len(asked)
    mirror(listing, "push", config=config, zarrs=False)
    assert len(asked) == before
    mirror(listing, "update-metadata", config=config, zarrs=False)
    described = {path: body["description"] for verb, path, body in asked if verb == "PATCH"}
    assert described["/repos/lab/a"].startswith("6 files, ")
    mirror(listing, "release", "1.0", "--push", config=config, zarrs=False)
    assert ("POST", "/repos/lab/bucket/releases", {"tag_name": "1.0", "name": "1.0"}) in asked
    assert git("tag", cwd=tmp_path / "github" / "a") == b"1.0\n"


def test_github_is_described_and_what_vanished_archived(mirror, listing, tmp_path, github, monkeypatch) -> None:
    api, asked = github
    monkeypatch.setenv("GITHUB_TOKEN", "s3cret")
    config = f"datasets: {{path: datasets, github_org: lab}}\ngithub_api: {api}\ntopics: [DataLad, 'Ex vivo']\n"
    mirror(listing, "update", "--push", config=config, zarrs=False)
    mirror(listing, "update-metadata", config=config, zarrs=False)
    assert ("PUT", "/repos/lab/a/topics", {"names": ["datalad", "ex-vivo"]}) in asked
    count = len(asked)
    assert mirror(listing, "update-metadata", config=config, zarrs=False) == ""
    assert len(asked) == count, "nothing changed, so nothing is asked"
    for path in [path for path in listing.rows if path.startswith("b/")]:
        del listing.rows[path]
    said = mirror(listing, "update", "--push", "--gc-assets", config=config, zarrs=False)
    assert "b: archived on GitHub" in said
    assert ("PATCH", "/repos/lab/b", {"archived": True}) in asked
    count = len(asked)
    assert "archived" not in mirror(listing, "push", config=config, zarrs=False)
    # It comes back: opened again, and pushed.
    listing.put("b/new.dat", b"again")
    said = mirror(listing, "update", "--push", "--gc-assets", config=config, zarrs=False)
    assert "b: pushed to github" in said
    assert ("PATCH", "/repos/lab/b", {"archived": False}) in asked[count:]


def test_nothing_private_goes_to_a_public_repository(mirror, listing, tmp_path, github, monkeypatch) -> None:
    api, asked = github
    monkeypatch.setenv("GITHUB_TOKEN", "s3cret")
    listing.rows = {path: dataclasses.replace(row, version_id="v") for path, row in listing.rows.items()}
    config = f"datasets: {{path: datasets, github_org: lab}}\ngithub_api: {api}\n"
    mirror(listing, "update", "--push", config=config, zarrs=False)
    before = {name: head(tmp_path / "github" / name) for name in ("a", "b", "bucket")}
    config += "access: private\n"
    listing.put("a/d/f0.dat", b"later", version_id="w")
    listing.put("b/d/f0.dat", b"later", version_id="w")
    # As a repository that this mirror pushed to, and as one that it meets for the first time.
    for step in ("known", "met"):
        if step == "met":
            for path in ("", "a", "b"):
                git("config", "--remove-section", "remote.github", cwd=repository(tmp_path, path))
        said = mirror(listing, "update", "--push", config=config, zarrs=False, code=3)
        assert "lab/a on GitHub can be read by everyone" in said, step
        assert {name: head(tmp_path / "github" / name) for name in before} == before, step
    client = GitHub(api, "s3cret")
    for name in before:
        client._api.must("PATCH", f"/repos/lab/{name}", {"private": True}, (200,))
    assert mirror(listing, "push", config=config, zarrs=False).count("pushed to github") == 3
    assert head(tmp_path / "github" / "a") == head(repository(tmp_path, "a"))
    count = len(asked)
    assert "pushed" not in mirror(listing, "push", config=config, zarrs=False)
    assert len(asked) == count
    # One that someone opened since.
    client._api.must("PATCH", "/repos/lab/b", {"private": False}, (200,))
    listing.put("b/d/f0.dat", b"later still", version_id="x")
    assert "lab/b on GitHub" in mirror(listing, "update", "--push", config=config, zarrs=False, code=3)


# Locks and kills


def test_a_second_run_steps_back(mirror, listing, tmp_path) -> None:
    import fcntl

    mirror(listing, "update")
    listing.put("a/d/f0.dat", b"later")
    with open(stores(tmp_path) / ".lading" / "lock", "a") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX)
        assert "another run" in mirror(listing, "update", code=75)
    mirror(listing, "update")


def test_verify_and_an_update_do_not_meet(mirror, listing, tmp_path) -> None:
    import fcntl

    mirror(listing, "update")
    lock = stores(tmp_path) / ".lading" / "lock"
    with open(lock, "a") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX)
        assert "another run" in mirror(listing, "verify", code=75)
    # Others may look too, and what a killed run left is for the next that writes.
    lock.write_text('{"pid": 1}')
    with open(lock) as stream:
        fcntl.lockf(stream, fcntl.LOCK_SH)
        assert "agrees" in mirror(listing, "verify")
    assert lock.read_text() == '{"pid": 1}'


def test_an_update_steps_back_while_verify_reads(mirror, listing, tmp_path) -> None:
    import fcntl

    mirror(listing, "update")
    listing.put("a/d/f0.dat", b"later")
    with open(stores(tmp_path) / ".lading" / "lock") as stream:
        fcntl.lockf(stream, fcntl.LOCK_SH)
        assert "another run" in mirror(listing, "update", code=75)
    mirror(listing, "update")


def test_verify_makes_nothing(mirror, listing, tmp_path) -> None:
    assert "has no commit" in mirror(listing, "verify", code=4)
    assert not stores(tmp_path).exists()
    mirror(listing, "update")

    def state() -> list[tuple[Path, int]]:
        return sorted((path, path.lstat().st_mtime_ns) for path in stores(tmp_path).rglob("*"))

    before = state()
    assert "agrees" in mirror(listing, "verify")
    assert state() == before


def update_process(directory: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "lading", "mirror", "--config", "mirror.yaml", "update"],
        cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip


def kill_and_finish(tmp_path: Path, make: Callable[[Path], None], kills: int) -> None:
    """Kill an update at ``kills`` moments spread over its length, finish it, and compare with one left alone."""
    calm = tmp_path / "calm"
    calm.mkdir()
    make(calm)
    started = time.monotonic()
    calmly = update_process(calm)
    _, error = calmly.communicate()
    assert calmly.returncode == 0, error
    length = time.monotonic() - started
    expected = heads(calm / "datasets")
    hit = 0
    for number in range(kills):
        place = tmp_path / f"kill{number}"
        place.mkdir()
        make(place)
        process = update_process(place)
        time.sleep(length * (number + 0.5) / kills)
        hit += process.poll() is None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.communicate()
        for found in (place / "datasets").glob("???/*"):
            if (found / "HEAD").exists() and not found.name.startswith("."):
                git("fsck", "--strict", "--no-dangling", cwd=found)
        again = update_process(place)
        _, error = again.communicate()
        assert again.returncode == 0, error
        assert heads(place / "datasets") == expected, f"killed at {number + 0.5}/{kills}"
    assert hit >= kills // 2, f"only {hit} of {kills} kills met a running update"


def prepare(directory: Path, sessions: int, files: int) -> None:
    listing = Listed(Path("/nonexistent"))
    for session in range(sessions):
        for number in range(files):
            listing.put(f"s{session}/d/f{number}.dat", b"%d %d" % (session, number))
        listing.put(f"s{session}/z.zarr/zarr.json", b"%d" % session)
    (directory / "mirror.yaml").write_text(ZARRS)
    listing.write(directory / "manifest.jsonl.zst")


@pytest.mark.long
def test_killed_at_ten_points(tmp_path) -> None:
    need_program("git-annex")
    kill_and_finish(tmp_path, lambda place: prepare(place, 4, 100), KILLS)


def test_nothing_of_the_caller_s_identity_matters(mirror, listing, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Someone Else")
    mirror(listing, "update")
    who = git("log", "-1", "--format=%an %cn", "main", cwd=repository(tmp_path, "a"))
    assert who == b"Lading mirror Lading mirror\n"


def test_a_repository_that_was_lost_comes_back_the_same(mirror, listing, tmp_path) -> None:
    mirror(listing, "update")
    before = heads(stores(tmp_path))
    git("update-ref", "-d", "refs/heads/main", cwd=repository(tmp_path, "b"))
    assert heads(stores(tmp_path)) != before
    assert "not at the commit" in mirror(listing, "verify", code=4)
    mirror(listing, "update")
    assert heads(stores(tmp_path)) == before
    shutil.rmtree(repository(tmp_path, "a"))
    mirror(listing, "update")
    assert heads(stores(tmp_path)) == before
