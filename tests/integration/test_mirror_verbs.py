"""The mirror's verbs and settings one by one: what each does, and what it says to bad input."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from lading.core.errors import UsageError
from lading.mirror.config import load_config
from lading.mirror.git.annex import AnnexAccess, ObjectAddress
from lading.mirror.layout import MirrorLayout
from lading.mirror.source import read_source
from lading.testing.s3_server import free_port
from tests.conftest import need_program
from tests.mirrors import datalad, git, head, heads, repository, stores, tree


def other_content(listing, path: str, data: bytes) -> None:
    """Give a row another content without a newer time: nothing announces it."""
    row = listing.rows[path]
    digests = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest()}
    listing.rows[path] = dataclasses.replace(row, **digests)


def tags(path: Path) -> list[str]:
    return git("tag", cwd=path).decode().split()


# Runs with nothing to do


def test_an_unchanged_run_starts_no_git(mirror, listing, tmp_path, monkeypatch) -> None:
    mirror(listing, "update")
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE", str(trace))
    assert "nothing changed" in mirror(listing, "update")
    assert not trace.exists()
    assert "nothing changed" in mirror(listing, "update", "--mode", "force")
    assert trace.exists()


def test_an_unchanged_run_with_push_starts_no_git(mirror, listing, tmp_path, monkeypatch) -> None:
    config = f"siblings: [{{name: shelf, url: 'ria+file://{tmp_path}/shelf'}}]\n"
    mirror(listing, "update", config=config)
    assert mirror(listing, "update", "--push", config=config).count("pushed to shelf") == 3
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    assert "nothing changed" in mirror(listing, "update", "--push", config=config)
    assert "nothing changed" in mirror(listing, "update", config=config)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("branch", ["main", "git-annex"])
def test_a_branch_that_someone_lost_comes_back(mirror, listing, tmp_path, branch) -> None:
    mirror(listing, "update")
    before = heads(stores(tmp_path))
    git("update-ref", "-d", f"refs/heads/{branch}", cwd=repository(tmp_path, "a"))
    assert heads(stores(tmp_path)) != before
    mirror(listing, "update")
    assert heads(stores(tmp_path)) == before
    assert "agrees" in mirror(listing, "verify")


def test_the_note_is_no_more_than_a_note(mirror, listing, tmp_path) -> None:
    mirror(listing, "update")
    before = heads(stores(tmp_path))
    note = stores(tmp_path) / ".lading" / "done.json"
    for text in (None, "", "{}", '{"request": 1}', note.read_text().replace('"software": "', '"software": "x')):
        note.unlink()
        if text is not None:
            note.write_text(text)
        assert "nothing changed" in mirror(listing, "update")
        assert heads(stores(tmp_path)) == before


def test_a_failure_is_told_by_every_run(mirror, listing, tmp_path) -> None:
    listing.put("a/d/f0.dat", b"new", sha256=None, md5=None)
    for _ in range(2):
        assert "no checksum" in mirror(listing, "update", code=3)
    # Once it is done, a change of the settings or of the manifest is seen again.
    listing.put("a/d/f0.dat", b"new")
    mirror(listing, "update")
    assert "nothing changed" in mirror(listing, "update")
    said = mirror(listing, "update", config="candidates: [{name: lab, url: 'ria+file:///x#{id}'}]\n")
    assert "nothing changed" not in said
    assert b"ria+file:///x" in git("show", "main:.datalad/config", cwd=repository(tmp_path, ""))


# Settings that act


def test_tags_or_none(mirror, listing, tmp_path) -> None:
    mirror(listing, "update", "--no-tags", config="version: '1.0'\n")
    assert tags(repository(tmp_path, "")) == []
    mirror(listing, "update", config="version: '1.0'\nenable_tags: false\n")
    assert tags(repository(tmp_path, "")) == []
    mirror(listing, "update", "--tags", config="version: '1.0'\nenable_tags: false\n")
    assert tags(repository(tmp_path, "")) == tags(repository(tmp_path, "a")) == ["1.0"]
    config = "version: '1.1'\n"
    mirror(listing, "update", config=config)
    assert tags(repository(tmp_path, "b")) == ["1.0", "1.1"]
    assert "nothing changed" in mirror(listing, "update", config=config)
    git("tag", "-d", "1.1", cwd=repository(tmp_path, ""))
    mirror(listing, "update", config=config)
    assert tags(repository(tmp_path, "")) == ["1.0", "1.1"]
    listing.put("a/d/f0.dat", b"later")
    assert "cannot move" in mirror(listing, "update", config=config, code=4)
    assert "cannot move" in mirror(listing, "update", config=config, code=4)


def test_zarr_modes(mirror, listing, tmp_path) -> None:
    path = "a/i.zarr/zarr.json"
    listing.put(path, b"{}", version_id="v1")
    mirror(listing, "update")
    where = repository(tmp_path, "a/i.zarr")
    # Another version of the same bytes, which nothing announces.
    listing.rows[path] = dataclasses.replace(listing.rows[path], version_id="v2")
    annex = head(where, "git-annex")
    for mode in ("timestamp", "checksum", "asset-checksum"):
        mirror(listing, "update", "--zarr-mode", mode)
        assert head(where, "git-annex") == annex, mode
    mirror(listing, "update", "--zarr-mode", "force")
    assert head(where, "git-annex") != annex
    # Other bytes, which nothing announces.
    main = head(where)
    other_content(listing, path, b"[]")
    for mode in ("timestamp", "asset-checksum"):
        mirror(listing, "update", "--zarr-mode", mode)
        assert head(where) == main, mode
    mirror(listing, "update", "--zarr-mode", "checksum")
    assert head(where) != main
    # A newer object with other bytes: every mode sees it.
    for number, mode in enumerate(("timestamp", "asset-checksum", "checksum", "force")):
        main = head(where)
        listing.put(path, b"%d" % number)
        mirror(listing, "update", config=f"zarr_mode: {mode}\n")
        assert head(where) != main, mode


@pytest.mark.parametrize("mode", ["checksum", "asset-checksum"])
@pytest.mark.long
def test_zarr_modes_after_a_run_that_wrote_no_checksum(mirror, listing, tmp_path, mode) -> None:
    for name in ("zarr.json", "c/0"):
        listing.put(f"a/i.zarr/{name}", name.encode())
    config = f"zarr_mode: {mode}\n"
    mirror(listing, "update", config=config)
    where = repository(tmp_path, "a/i.zarr")
    checksum = git("show", "main:.mirror/zarr-checksum", cwd=where)
    for flags, complete in ((["--asset-filter", "c/0$"], True), ([], False)):
        listing.put("a/i.zarr/c/0", b"newer, " + str(complete).encode())
        mirror(listing, "update", *flags, config=config, complete=complete)
        assert not any(b"zarr-checksum" in path for path in tree(where, "main"))
        mirror(listing, "update", *flags, config=config, complete=complete)
    mirror(listing, "update", config=config)
    assert git("show", "main:.mirror/zarr-checksum", cwd=where) not in (checksum, b"")
    assert "nothing changed" in mirror(listing, "update", config=config)
    assert "agrees" in mirror(listing, "verify", config=config)


@pytest.mark.long
def test_force_and_gc_assets_and_filter_by_flag_or_setting(mirror, listing, tmp_path) -> None:
    mirror(listing, "update")
    where = repository(tmp_path, "a")
    for number, (flags, config) in enumerate(
        [(["--force", "assets-update"], ""), ([], "force: assets-update\n"), (["--mode", "force"], "mode: timestamp\n")]
    ):
        other_content(listing, "a/d/f0.dat", b"%d" % number)
        assert "nothing changed" in mirror(listing, "update")
        assert "a: 0 added, 1 changed" in mirror(listing, "update", *flags, config=config)
    for number in range(4):
        listing.rows.pop(f"a/d/f{number}.dat")
    main = head(where)
    said = mirror(listing, "update", "--no-gc-assets", config="gc_assets: true\n", code=3)
    assert "4 of 6 files would be removed" in said
    assert head(where) == main
    assert "4 removed" in mirror(listing, "update", config="gc_assets: true\n")
    listing.put("a/d/x.dat", b"x")
    listing.put("a/d/y.dat", b"y")
    assert "1 added" in mirror(listing, "update", "--asset-filter", "x[.]dat", config="asset_filter: nothing\n")
    assert "1 added" in mirror(listing, "update", config="asset_filter: y[.]dat\n")


def test_bucket_and_endpoint_of_the_settings(mirror, listing, tmp_path) -> None:
    listing.put("a/d/f0.dat", b"pinned", version_id="v7")
    assert "s3bucket is other" in mirror(listing, "update", config="s3bucket: other\n", code=4)
    mirror(listing, "update", config="s3bucket: bucket\ns3endpoint: https://s3.example.org/\n")
    where = repository(tmp_path, "a")
    log = next(p for p in tree(where, "git-annex") if p.endswith(b".log.web") and b"MD5" not in p)
    url = git("show", b"git-annex:" + log, cwd=where).decode().split()[2]
    assert url.startswith("https://s3.example.org/bucket/a/d/f")
    assert "agrees" in mirror(listing, "verify", config="s3endpoint: https://s3.example.org/\n")
    assert "not among the places" in mirror(listing, "verify", code=4)


def test_the_url_expression_chooses_a_spelling() -> None:
    place = ObjectAddress("blobs/a b", "v1", 0)
    assert AnnexAccess("b", None, None).url(place) == "https://b.s3.amazonaws.com/blobs/a%20b?versionId=v1"
    assert (
        AnnexAccess("b", None, None, r"amazonaws\.com/b/blobs/")
        .url(place)
        .startswith("https://s3.amazonaws.com/b/blobs/")
    )
    with pytest.raises(UsageError, match="matches none"):
        AnnexAccess("b", None, None, "nowhere").url(place)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("siblings: [{name: a, url: 'ria+http://host/store'}]\n", "ria+ssh://host/path"),
        ("siblings: [{name: a, url: 'ria+ssh://-oProxyCommand=x/store'}]\n", "ria+ssh://host/path"),
        ("siblings: [{name: github, url: x}]\n", "taken"),
        (
            "siblings: [{name: a, url: x}]\ndatasets: {path: d, remote: {name: a, type: directory}}\n",
            "both a sibling and a remote",
        ),
    ],
)
def test_faults_of_siblings(tmp_path, text, reason) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=reason.replace("+", r"\+")):
        load_config(path, {})


@pytest.mark.parametrize(
    "text",
    [
        "siblings:\n- {name: lab, url: 'https://me:t0ken@host.example.org/{name}.git'}\n",
        "siblings:\n- {name: lab, url: 'https://:t0ken@host.example.org/{name}.git'}\n",
        "siblings:\n- {name: lab, url: 'ria+ssh://me:t0ken@host.example.org:22/store'}\n",
        "siblings:\n- {name: lab, url: 'https://me:p@t0ken@host.example.org/{name}'}\n",
        "candidates:\n- {name: lab, url: 'https://me:t0ken@host.example.org/{path}'}\n",
        "properties:\n  mirror-url: 'https://me:t0ken@host.example.org/{path}'\n",
        "jobs: 1\ns3endpoint: 'https://me:t0ken@host.example.org'\n",
        "jobs: 1\ngithub_api: 'https://me:t0ken@host.example.org'\n",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(tmp_path, text) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"line 2: .* has a password") as caught:
        load_config(path, {})
    assert "t0ken" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "https://me@host.example.org:8443/{name}.git",
        "ssh://git@[::1]:2222/{name}.git",
        "git@host.example.org:lab/{name}.git",
        "/data/{name}:old@site",
        "ria+ssh://me@host.example.org:22/a:b@c",
    ],
)
def test_addresses_without_a_password_are_accepted(tmp_path, url) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(f"siblings: [{{name: lab, url: '{url}'}}]\n")
    assert load_config(path, {}).siblings[0].url == url


def test_the_token_goes_over_https_or_stays_here(tmp_path) -> None:
    path = tmp_path / "m.yaml"
    for url in ("http://ghe.example.org/api/v3", "http://127.0.0.1.example.org", "http://127.0.0.1@example.org"):
        path.write_text(f"github_api: '{url}'\n")
        with pytest.raises(UsageError, match="line 1: github_api: must begin with https"):
            load_config(path, {})
    for url in ("https://ghe.example.org/api/v3", "http://127.0.0.1:8000", "http://localhost:1", "http://[::1]:8000"):
        path.write_text(f"github_api: '{url}'\n")
        assert load_config(path, {}).github_api == url


# Verbs


@pytest.mark.long
def test_create_zarrs_makes_them_empty_and_update_fills_them(mirror, listing, tmp_path) -> None:
    mirror(listing, "update")
    (stores(tmp_path)).rename(tmp_path / "plain")
    assert "0 Zarr datasets" in mirror(listing, "create-zarrs")
    for name in ("a/i.zarr", "b/deep/j.zarr"):
        listing.put(f"{name}/zarr.json", b"{}")
        listing.put(f"{name}/c/0", name.encode())
    assert "add zarrs" in mirror(listing, "create-zarrs", code=2, zarrs=False)
    said = mirror(listing, "create-zarrs", "--workers", "2")
    assert "2 Zarr datasets" in said
    made = [p.parent for p in stores(tmp_path).glob("???/*/HEAD")]
    assert len(made) == 2
    assert heads(stores(tmp_path)) == {}
    assert "2 Zarr datasets" in mirror(listing, "create-zarrs")
    assert "has no commit" in mirror(listing, "verify", code=4)
    mirror(listing, "update")
    filled = heads(stores(tmp_path))
    assert {repository(tmp_path, "a/i.zarr"), repository(tmp_path, "b/deep/j.zarr")} == set(made)
    shutil.rmtree(stores(tmp_path))
    mirror(listing, "update")
    assert heads(stores(tmp_path)) == filled
    assert "agrees" in mirror(listing, "verify")


def test_verbs_before_the_first_update(mirror, listing, tmp_path) -> None:
    config = f"datasets: {{path: datasets, remote: {{name: r, type: directory, options: {{directory: {tmp_path}}}}}}}\n"
    for verb in (["push"], ["populate"], ["release", "1"], ["zarr-checksum", "x"]):
        said = mirror(listing, *verb, config=config, code=2)
        assert "make mirror" in said, verb


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["release", "a b"], 2, "is not a tag name"),
        (["release", "../x"], 2, "is not a tag name"),
        (["release"], 2, "version"),
        (["zarr-checksum", "a/nope.zarr"], 2, "the mirror has: a/i.zarr"),
        (["populate"], 2, "no datasets.remote"),
        (["populate-zarrs"], 2, "no zarrs.remote"),
        (["update-metadata"], 2, "no github_org"),
        (["update", "--asset-filter", "("], 2, "regular expression"),
        (["update", "--mode", "sometimes"], 2, "invalid choice"),
        (["update", "--zarr-mode", "sometimes"], 2, "invalid choice"),
        (["update", "--force", "everything"], 2, "invalid choice"),
        (["update", "--workers", "0"], 2, "workers"),
        (["--jobs", "0", "populate"], 2, "not a number of workers"),
        (["--manifest", "nowhere.zst", "update"], 2, "nowhere.zst is missing"),
        (["--manifest", "mirror.yaml", "update"], 4, "mirror.yaml"),
        (["explode"], 2, "invalid choice"),
    ],
)
def test_bad_input_is_a_sentence(mirror, listing, arguments, code, reason) -> None:
    listing.put("a/i.zarr/zarr.json", b"{}")
    mirror(listing, "update")
    assert reason in mirror(listing, *arguments, code=code)


def test_a_manifest_cut_short_is_refused(mirror, listing, tmp_path, run) -> None:
    mirror(listing, "update")
    before = heads(stores(tmp_path))
    path = tmp_path / "manifest.jsonl.zst"
    path.write_bytes(path.read_bytes()[:-20])
    for verb in ("update", "verify", "populate", "create-zarrs"):
        done = run("-m", "lading", "mirror", "--config", tmp_path / "mirror.yaml", verb, cwd=tmp_path)
        assert done.returncode == 4, (verb, done.stderr)
        assert "make verify" in done.stderr
    assert heads(stores(tmp_path)) == before


def test_a_store_is_of_one_release(mirror, listing, tmp_path) -> None:
    mirror(listing, "update")
    before = sorted(stores(tmp_path).rglob("*"))
    listing.prefix = "release2/"
    for verb in ("update", "create-zarrs", "push", "release 1", "populate", "verify"):
        said = mirror(listing, *verb.split(), code=2)
        assert "mirrors another release than s3://bucket/release2/" in said, verb
        assert "--store" in said, verb
        assert sorted(stores(tmp_path).rglob("*")) == before, verb
    assert f"datalad clone 'ria+file://{tmp_path}/second#~super'" in mirror(listing, "--store", "second", "update")
    listing.prefix = ""
    assert "nothing changed" in mirror(listing, "update")
    # A store that was moved, or is reached through a link, is still the same.
    stores(tmp_path).rename(tmp_path / "moved")
    stores(tmp_path).symlink_to(tmp_path / "moved")
    listing.put("a/d/f0.dat", b"later")
    assert "1 changed" in mirror(listing, "update")


def test_populate_says_what_the_remote_lacks(mirror, listing, tmp_path) -> None:
    def with_remote(kind: str) -> str:
        return (
            f"datasets: {{path: datasets, remote: {{name: shelf, type: {kind}, "
            f"options: {{directory: '{tmp_path}/absent', encryption: none}}}}}}\n"
        )

    mirror(listing, "update", config=with_remote("directory"))
    said = mirror(listing, "populate", config=with_remote("directory"), code=3)
    assert "absent" in said
    assert "2 datasets were not copied completely" in said
    assert "nosuchkind" in mirror(listing, "populate", config=with_remote("nosuchkind"), code=3)


def test_verify_finds_each_kind_of_difference(mirror, listing, tmp_path) -> None:
    listing.put("a/d/v.dat", b"pinned", version_id="v1")
    listing.put_local("a/README.md", b"about\n")
    listing.put("a/README.md", b"about\n")
    mirror(listing, "update")
    assert "agrees" in mirror(listing, "verify")
    rows = dict(listing.rows)
    for change, finding in (
        (lambda: listing.put("a/d/new.dat", b"new"), "a: d/new.dat: in the manifest, not in the dataset"),
        (lambda: listing.put("c/new.dat", b"new"), "c: not in the superdataset"),
        (lambda: listing.rows.pop("a/d/f0.dat"), "a: d/f0.dat: in the dataset, not in the manifest"),
        (lambda: listing.put("a/d/f0.dat", b"else"), "a: d/f0.dat: its key is not of the content"),
        (lambda: listing.put("a/d/v.dat", b"pinned", version_id="v2"), "a: d/v.dat: its version in the manifest"),
        (lambda: listing.put("a/README.md", b"other\n"), "a: README.md: its content is not that"),
    ):
        listing.rows = dict(rows)
        change()
        assert finding in mirror(listing, "verify", code=4)
    listing.rows = rows
    where = repository(tmp_path, "b")
    (damaged,) = where.glob("objects/pack/*.pack")
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    os.chmod(damaged, 0o644)
    damaged.write_bytes(data)
    assert "git fsck finds damage" in mirror(listing, "verify", code=4)


def test_verify_finds_a_link_that_is_lost_or_left(mirror, listing, tmp_path) -> None:
    listing.put("a/x.zarr/zarr.json", b"{}")
    listing.put("b/x.zarr/zarr.json", b"{}")
    mirror(listing, "update")
    assert "agrees" in mirror(listing, "verify")
    for path, name, finding in (
        ("", "b", "superdataset: links b at no commit"),
        ("a", "x.zarr", "a: links x.zarr at no"),
    ):
        where = repository(tmp_path, path)
        before = head(where)
        entries = git("ls-tree", "-z", "main", cwd=where).split(b"\0")[:-1]
        for kept, said in (
            ([entry for entry in entries if not entry.endswith(b"\t" + name.encode())], finding),
            ([*entries, b"160000 commit " + b"1" * 40 + b"\tgone.zarr"], f"links gone.zarr at {'1' * 40}"),
        ):
            done = subprocess.run(
                ["git", "mktree", "-z", "--missing"], cwd=where, input=b"\0".join(kept) + b"\0", capture_output=True,
                check=True,
            )  # fmt: skip
            commit = git("commit-tree", "-m", "x", done.stdout.decode().strip(), cwd=where).decode().strip()
            git("update-ref", "refs/heads/main", commit, cwd=where)
            assert said in mirror(listing, "verify", code=4)
            git("update-ref", "refs/heads/main", before, cwd=where)
    assert "agrees" in mirror(listing, "verify")


# RIA stores elsewhere


def own_heads(tmp_path: Path) -> dict[str, str]:
    return {name: sha for name, sha in heads(stores(tmp_path)).items() if "refs/remotes/" not in name}


def clone_from(store: str, tmp_path: Path, name: str) -> Path:
    datalad("clone", store if store.startswith("file:") else f"{store}#~super", name, cwd=tmp_path)
    datalad("get", "-n", "-r", ".", cwd=tmp_path / name)
    return tmp_path / name


def test_a_ria_store_elsewhere_is_made_and_kept_up(mirror, listing, tmp_path) -> None:
    need_program("datalad")
    listing.put("a/i.zarr/zarr.json", b"{}")
    shelf = tmp_path / "it's a shelf"
    config = f"""siblings: [{{name: shelf, url: "ria+file://{shelf}#{{id}}"}}]\n"""
    mirror(listing, "update", config=config)
    assert mirror(listing, "push", config=config).count("pushed to shelf") == 4
    assert heads(shelf) == own_heads(tmp_path)
    assert (shelf / "ria-layout-version").read_text() == "1\n"
    assert "pushed" not in mirror(listing, "push", config=config)
    # The mirror's own store is out of reach: the clone and its subdatasets come from the copy.
    listing.put("a/d/f0.dat", b"later")
    assert mirror(listing, "update", "--push", config=config).count("pushed to shelf") == 2
    mirror(listing, "release", "1.0", "--push", config=config)
    expected = heads(stores(tmp_path))
    stores(tmp_path).rename(tmp_path / "away")
    place = clone_from(f"ria+file://{shelf}", tmp_path, "clone")
    assert head(place / "a", "main") == expected[f"{place_of(tmp_path, place, 'a')} refs/heads/main"]
    assert (place / "a" / "d" / "f0.dat").is_symlink()
    assert (place / "a" / "i.zarr" / "zarr.json").is_symlink()
    assert tags(shelf / place_of(tmp_path, place, "a")) == ["1.0"]


def dataset_names(tmp_path: Path) -> dict[str, str]:
    """The name that each dataset has on a host, by its path."""
    source = read_source(tmp_path / "manifest.jsonl.zst")
    layout = MirrorLayout(load_config(None, {"backup_root": str(tmp_path)}), source.header)
    records = json.loads(git("show", "main:.mirror/datasets.json", cwd=repository(tmp_path, "")))["datasets"]
    return {path: layout.dataset("session", path).name for path in records}


def test_every_subdataset_is_found_on_a_git_host(mirror, listing, tmp_path) -> None:
    need_program("datalad")
    listing.put("a/deep/i.zarr/zarr.json", b"{}")
    config = f"""siblings: [{{name: host, url: "file://{tmp_path}/host/{{name}}.git"}}]\n"""
    stores = "datasets: {path: datasets}\nzarrs: {path: zarrs}\n"
    mirror(listing, "update", config=config + stores, zarrs=False)
    for name in dataset_names(tmp_path).values():
        git("init", "--quiet", "--bare", "--initial-branch=main", f"host/{name}.git", cwd=tmp_path)
    mirror(listing, "push", config=config + stores, zarrs=False)
    # The mirror's own stores are out of reach: each address in .gitmodules, relative to the parent, leads nowhere.
    for store in ("datasets", "zarrs"):
        (tmp_path / store).rename(tmp_path / f"{store}.away")
    place = clone_from(f"file://{tmp_path}/host/bucket.git", tmp_path, "clone")
    assert (place / "a" / "d" / "f0.dat").is_symlink()
    assert (place / "a" / "deep" / "i.zarr" / "zarr.json").is_symlink()
    assert (place / "b" / "d" / "f5.dat").is_symlink()


def test_both_stores_are_found_though_the_addresses_are_pages(mirror, listing, tmp_path) -> None:
    need_program("datalad")
    listing.put("a/deep/i.zarr/zarr.json", b"{}")
    config = f"""
datasets: {{path: datasets, github_org: lab}}
zarrs: {{path: zarrs, github_org: lab}}
github_api: http://127.0.0.1:{free_port()}
"""
    mirror(listing, "update", config=config, zarrs=False)
    place = clone_from(f"ria+file://{tmp_path}/datasets", tmp_path, "clone")
    # The zarr is in another store than the session that links it, and nobody answers at the page.
    assert (place / "a" / "deep" / "i.zarr" / "zarr.json").is_symlink()


def test_a_sibling_that_is_no_candidate_is_named_nowhere(mirror, listing, tmp_path) -> None:
    hidden = "{name: inner, url: 'git@inner.example.org:lab/{name}.git', candidate: false}"
    given = "{name: lab, cost: 300, url: 'https://lab.example.org/{path}'}"
    shown = "{name: lab, url: 'git@lab.example.org:{path}.git'}"
    config = f"siblings: [{hidden}, {shown}, {{name: ria, url: 'ria+ssh://far.example.org/store'}}]\n"
    mirror(listing, "update", config=config)
    where = repository(tmp_path, "")
    text = git("show", "main:.datalad/config", cwd=where).decode()
    assert "inner" not in text + git("show", "main:.gitmodules", cwd=where).decode()
    assert 'candidate-750lab = "git@lab.example.org:{mirror-path}.git"' in text
    assert 'candidate-751ria = "ria+ssh://far.example.org/store#{id}"' in text
    # What a person says of a name is what counts.
    mirror(listing, "update", config=config + f"candidates: [{given}]\n")
    text = git("show", "main:.datalad/config", cwd=where).decode()
    assert 'candidate-300lab = "https://lab.example.org/{path}"' in text
    assert "750lab" not in text


def place_of(tmp_path: Path, clone: Path, path: str) -> str:
    found = git("config", "-f", ".gitmodules", "--get", f"submodule.{path}.datalad-id", cwd=clone).decode().strip()
    return f"{found[:3]}/{found[3:]}"


def test_a_ria_store_over_ssh(mirror, listing, tmp_path, monkeypatch) -> None:
    # In place of another host: the command that ssh would run there runs here, and says who was asked.
    stand_in = tmp_path / "stand-in"
    stand_in.write_text(
        f'#!/bin/sh\nwhile :; do case "$1" in -p|-o) shift 2;; -*) shift;; *) break;; esac; done\n'
        f'echo "$1" >> "{tmp_path}/asked"; shift; exec sh -c "$*"\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("GIT_SSH_COMMAND", str(stand_in))
    monkeypatch.setenv("GIT_SSH_VARIANT", "ssh")
    config = f"siblings: [{{name: far, url: 'ria+ssh://me@far.example.org:2222{tmp_path}/far'}}]\n"
    mirror(listing, "update", config=config)
    assert mirror(listing, "push", config=config).count("pushed to far") == 3
    assert heads(tmp_path / "far") == own_heads(tmp_path)
    assert set((tmp_path / "asked").read_text().split()) == {"me@far.example.org"}
    asked = (tmp_path / "asked").read_text()
    assert "pushed" not in mirror(listing, "push", config=config)
    assert (tmp_path / "asked").read_text() == asked
    stand_in.write_text("#!/bin/sh\necho 'no route to host' >&2\nexit 255\n")
    listing.put("a/d/f0.dat", b"later")
    said = mirror(listing, "update", "--push", config=config, code=3)
    assert "no route to host" in said
    assert "not pushed, since a subdataset was not" in said
