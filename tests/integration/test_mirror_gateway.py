"""The mirror against a real versioned S3 server, cloned and fetched by the real DataLad."""

import dataclasses
import hashlib
import os
import re
import shutil
import time
from pathlib import Path

import pytest

from lading.mirror.git.portable_names import repository_path
from lading.testing.s3_server import free_port
from tests.conftest import ODD_NAMES, need_program
from tests.integration.test_jobs_run import arguments, write_list
from tests.mirrors import ZARRS, Bucket, allow_loopback, content, datalad, git, heads

# The full size: LADING_MIRROR_FILES=10000. Read here, since each test starts without such variables.
FILES = int(os.environ.get("LADING_MIRROR_FILES", "200"))

pytestmark = pytest.mark.xdist_group("rgw")


@pytest.fixture
def store(gateway, bucket, tmp_path) -> Bucket:
    need_program("git-annex", "datalad")
    gateway.make_bucket(bucket, versioned=True)
    allow_loopback()
    found = Bucket(gateway.client(), bucket, gateway.endpoint, tmp_path / "root")
    found.open_to_all()
    return found


@pytest.fixture
def mirror(run, tmp_path):
    """Run the mirror's command line on the manifest of a bucket: ``mirror(bucket, "update")``."""

    def call(bucket: Bucket, *arguments: object, config: str = "", code: int = 0, complete: bool = True, zarrs=True):
        settings = tmp_path / "mirror.yaml"
        settings.write_text((ZARRS if zarrs else "") + config)
        bucket.write(tmp_path / "manifest.jsonl.zst", complete=complete)
        started = time.monotonic()
        result = run("-m", "lading", "mirror", "--config", settings, *arguments, cwd=tmp_path)
        result.seconds = time.monotonic() - started
        assert result.returncode == code, (result.returncode, result.stdout, result.stderr)
        return result

    return call


def clone(tmp_path: Path, name: str = "clone", tag: str = "") -> Path:
    datalad("clone", f"ria+file://{tmp_path}/datasets#~super{tag}", name, cwd=tmp_path)
    return tmp_path / name


def test_a_clone_gets_everything(store: Bucket, mirror, tmp_path) -> None:
    files = {f"s1/deep/er/f{i}.tar.gz": b"%d" % i * (i + 1) for i in range(5)}
    files |= {"s2/README.md": b"about\n", "top level": b"top", "s2/copy of 1": b"0"}
    files |= {"s2/img.zarr/.zgroup": b"{}", "s2/img.zarr/0/.zarray": b"{}", "s2/img.zarr/0/0.0": b"chunk"}
    store.fill(files)
    mirror(store, "update")
    place = clone(tmp_path)
    datalad("get", "-r", ".", cwd=place)
    assert content(place) == files


@pytest.mark.long
def test_odd_names_come_back(store: Bucket, mirror, tmp_path) -> None:
    names = [
        *list(ODD_NAMES),
        b"many.dots.in.nii.gz",
        b"x.tar..gz",
        b"caf\xc3\xa9.\xc3\xa9\xc3\xa9",
        b".git",
        b"a.b_c.gz",
    ]
    files = {b"odd/" + name: b"content of " + name for name in names}
    files |= {b"odd/.git/config": b"[evil]", b"odd/.gitmodules": b"[submodule]", b"odd/%2Egit/config": b"other"}
    del files[b"odd/.git"]
    store.fill(files)
    mirror(store, "update")
    place = clone(tmp_path)
    datalad("get", "-r", ".", cwd=place)
    found = content(place)
    assert found == {os.fsdecode(b"odd/" + repository_path(path[4:])): data for path, data in files.items()}
    assert found["odd/%2Egit/config"] == b"[evil]"
    assert found["odd/%252Egit/config"] == b"other"
    assert found["odd/%6Eew%0Aline"] == b"content of new\nline"
    assert found["odd/naïve-é-日本.txt"] == "content of naïve-é-日本.txt".encode()


@pytest.mark.long
def test_exactly_the_change_and_the_old_version_stays(store: Bucket, mirror, tmp_path) -> None:
    total = FILES
    share = total // 100
    store.fill({f"s{n % 4}/d{n % 7}/f{n}.bin": b"first %d" % n for n in range(total)})
    before = store.rows.copy()
    first = mirror(store, "update").seconds
    old = clone(tmp_path, "old")
    datalad("get", "-n", "-r", ".", cwd=old)
    for number in range(share):
        store.put(f"s{number % 4}/new/n{number}.bin", b"new %d" % number)
    for number in range(share // 2):
        store.put(f"s{number % 4}/d{number % 7}/f{number}.bin", b"second %d" % number)
    removed = [f"s{n % 4}/d{n % 7}/f{n}.bin" for n in range(share // 2, share)]
    for path in removed:
        store.remove(path)
    mirror(store, "update")
    moved = heads(tmp_path / "datasets")
    changed: dict[str, set[str]] = {"A": set(), "M": set(), "D": set()}
    for repository in (tmp_path / "datasets").glob("???/*"):
        if b"source" in git("show", "main:.mirror/state.json", cwd=repository) and has_parent(repository):
            lines = git("diff", "--name-status", "main^", "main", cwd=repository).decode().splitlines()
            for line in lines:
                verb, path = line.split("\t")
                if path.endswith(".bin"):
                    changed[verb].add(path.rpartition("/")[2])
    assert len(changed["A"]) == share
    assert len(changed["M"]) == share // 2
    assert changed["D"] == {path.rpartition("/")[2] for path in removed}
    unchanged = mirror(store, "update")
    assert "nothing changed" in unchanged.stdout
    assert heads(tmp_path / "datasets") == moved
    print(f"first {first:.2f} s, again {unchanged.seconds:.2f} s: {unchanged.seconds / first:.3f}")
    # The clone made before the change still fetches what was overwritten and what was removed.
    for path in (removed[0], "s0/d0/f0.bin"):
        datalad("get", path, cwd=old)
        assert hashlib.md5((old / path).read_bytes()).hexdigest() == before[path].md5


def has_parent(repository: Path) -> bool:
    return len(git("rev-list", "-2", "main", cwd=repository).split()) == 2


@pytest.mark.parametrize("versioned", [True, pytest.param(False, marks=pytest.mark.long)])
def test_damaged_objects_are_refused(gateway, bucket, mirror, tmp_path, versioned) -> None:
    need_program("git-annex", "datalad")
    gateway.make_bucket(bucket, versioned=versioned)
    allow_loopback()
    store = Bucket(gateway.client(), bucket, gateway.endpoint, tmp_path / "root")
    store.open_to_all()
    whole = bytes(range(256)) * 64
    flipped = whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:]
    for name in ("good", "flipped", "truncated", "overwritten"):
        store.put(f"s/{name}", whole + name.encode())
    # The server holds something else than what was proven: under the pinned version, or in place.
    for name, data in (("flipped", flipped + b"flipped"), ("truncated", whole), ("overwritten", b"other content")):
        answer = store.client.put_object(Bucket=bucket, Key=f"s/{name}", Body=data)
        row = store.rows[f"s/{name}"]
        store.rows[f"s/{name}"] = dataclasses.replace(row, version_id=answer.get("VersionId"))
    mirror(store, "update")
    place = clone(tmp_path)
    datalad("get", "-n", "s", cwd=place)
    datalad("get", "s/good", cwd=place)
    assert (place / "s/good").read_bytes() == whole + b"good"
    for name in ("flipped", "truncated", "overwritten"):
        refused = datalad("get", f"s/{name}", cwd=place, check=False)
        assert refused.returncode != 0
        assert not (place / "s" / name).exists(), "a link to content that is not there"


@pytest.mark.long
def test_the_first_candidate_that_answers_is_taken(store: Bucket, mirror, tmp_path) -> None:
    store.fill({"s1/f.bin": b"one", "s2/f.bin": b"two"})
    refused = f"http://127.0.0.1:{free_port()}/{{path}}"
    config = f"""
properties: {{shelf: 'shelf-{{name}}'}}
candidates:
- {{cost: 20, name: absent, url: 'ria+file://{tmp_path}/NOSUCH#{{id}}'}}
- {{cost: 100, name: refused, url: '{refused}'}}
- {{cost: 200, name: good, url: 'file://{tmp_path}/copies/{{shelf}}/{{id}}'}}
- {{name: uncosted, url: '{tmp_path}/uncosted/{{path}}'}}
"""
    mirror(store, "update", config=config)
    place = clone(tmp_path)
    ids = {}
    for path in ("s1", "s2"):
        found = git("config", "-f", ".gitmodules", "--get", f"submodule.{path}.datalad-id", cwd=place)
        ids[path] = found.decode().strip()
        source = tmp_path / "datasets" / ids[path][:3] / ids[path][3:]
        shutil.copytree(source, tmp_path / "copies" / f"shelf-{path}" / ids[path])
        shutil.copytree(source, tmp_path / "uncosted" / path)
    datalad("get", "-n", "s1", cwd=place)
    assert (
        git("config", "remote.origin.url", cwd=place / "s1").decode().strip().endswith(f"copies/shelf-s1/{ids['s1']}")
    )
    datalad("get", "s1/f.bin", cwd=place)
    assert (place / "s1/f.bin").read_bytes() == b"one"
    # Without the good one, the address in .gitmodules (600) comes before an uncosted candidate (700) ...
    shutil.rmtree(tmp_path / "copies")
    datalad("get", "-n", "s2", cwd=place)
    assert git("config", "remote.origin.url", cwd=place / "s2").decode().strip().endswith(ids["s2"][3:])
    # ... which is taken when that address and the store do not answer.
    other = clone(tmp_path, "other")
    hidden = tmp_path / "datasets" / ids["s2"][:3]
    hidden.rename(tmp_path / "hidden")
    datalad("get", "-n", "s2", cwd=other)
    assert git("config", "remote.origin.url", cwd=other / "s2").decode().strip() == str(tmp_path / "uncosted" / "s2")


@pytest.mark.long
def test_a_private_bucket_by_version(gateway, bucket, mirror, tmp_path) -> None:
    need_program("git-annex", "datalad")
    gateway.make_bucket(bucket, versioned=True)
    allow_loopback()
    store = Bucket(gateway.client(), bucket, gateway.endpoint, tmp_path / "root")
    files = {"s/a b.dat": b"one", "s/it's": b"two", "s/größe#+%.bin": b"three", "s/x.zarr/zarr.json": b"{}"}
    store.fill(files)
    mirror(store, "update", config="access: private\n")
    store.put("s/a b.dat", b"overwritten later")
    place = clone(tmp_path)
    datalad("get", "-r", ".", cwd=place)
    assert content(place) == files


@pytest.mark.long
def test_populate_copies_proven_content_and_goes_on(store: Bucket, mirror, tmp_path) -> None:
    store.fill({f"s{i}/f{j}.bin": b"%d %d" % (i, j) for i in range(2) for j in range(4)})
    store.put("s0/z.zarr/zarr.json", b"{}")
    (tmp_path / "shelf").mkdir()
    remote = f"remote: {{name: shelf, type: directory, options: {{directory: '{tmp_path}/shelf', encryption: none}}}}"
    config = f"datasets:\n  path: datasets\n  {remote}\n"
    mirror(store, "update", config=config)
    mirror(store, "populate", config=config)
    kept = [path for path in (tmp_path / "shelf").rglob("*") if path.is_file()]
    assert sorted(path.read_bytes() for path in kept) == sorted(b"%d %d" % (i, j) for i in range(2) for j in range(4))
    assert mirror(store, "populate", config=config).stdout == ""
    # One dataset gets a file more: only this one is looked at, and the next update keeps git-annex' records.
    store.put("s1/more.bin", b"more")
    mirror(store, "update", config=config)
    assert mirror(store, "populate", config=config).stdout == "s1: copied to shelf\n"
    place = clone(tmp_path)
    datalad("get", "-n", "s1", cwd=place)
    assert b"shelf" in git("annex", "whereis", "more.bin", cwd=place / "s1")
    mirror(store, "populate-zarrs", config=config, code=2)


def use_shelf(dataset: Path, shelf: Path) -> None:
    """Enable the remote in a clone and vouch for it, as docs/reference/mirror.md says."""
    git("annex", "enableremote", "shelf", f"directory={shelf}", cwd=dataset)
    asked = re.search(rb"--safe (\d+)", git("annex", "verifyremote", "shelf", cwd=dataset))
    assert asked
    git("annex", "verifyremote", "shelf", "--safe", asked[1], cwd=dataset)


@pytest.mark.long
def test_populate_zarrs_copies_the_chunks(store: Bucket, mirror, tmp_path) -> None:
    chunks = {f"s/{name}.zarr/0/{i}": b"%d of %s" % (i, name.encode()) for name in ("x", "y") for i in range(3)}
    store.fill({**chunks, "s/x.zarr/zarr.json": b"{}", "s/y.zarr/zarr.json": b"[]", "s/file": b"not a chunk"})
    (tmp_path / "shelf").mkdir()
    remote = f"{{name: shelf, type: directory, options: {{directory: '{tmp_path}/shelf', encryption: none}}}}"
    config = f"zarrs: {{path: zarrs, remote: {remote}}}\n"
    mirror(store, "update", config=config, zarrs=False)
    said = mirror(store, "populate-zarrs", "--workers", "2", config=config, zarrs=False).stdout
    assert sorted(said.splitlines()) == ["s/x.zarr: copied to shelf", "s/y.zarr: copied to shelf"]
    kept = sorted(path.read_bytes() for path in (tmp_path / "shelf").rglob("*") if path.is_file())
    assert kept == sorted([*chunks.values(), b"{}", b"[]"])
    assert mirror(store, "populate-zarrs", config=config, zarrs=False).stdout == ""
    # A copy that the shelf lost is brought back when the shelf itself is asked.
    lost = next(path for path in (tmp_path / "shelf").rglob("*") if path.is_file())
    lost.parent.chmod(0o755)
    lost.unlink()
    assert "copied to shelf" in mirror(store, "populate-zarrs", "--check", config=config, zarrs=False).stdout
    assert sorted(path.read_bytes() for path in (tmp_path / "shelf").rglob("*") if path.is_file()) == kept
    # The bucket is gone: a clone fetches from the shelf.
    for key in list(store.rows):
        store.remove(key)
    store.client.delete_bucket_policy(Bucket=store.name)
    place = clone(tmp_path)
    datalad("get", "-n", "s/x.zarr", cwd=place)
    use_shelf(place / "s/x.zarr", tmp_path / "shelf")
    datalad("get", "s/x.zarr/0", cwd=place)
    assert (place / "s/x.zarr/0/1").read_bytes() == b"1 of x"


@pytest.mark.long
def test_populate_from_a_private_bucket(gateway, bucket, mirror, tmp_path) -> None:
    need_program("git-annex", "datalad")
    gateway.make_bucket(bucket, versioned=True)
    allow_loopback()
    store = Bucket(gateway.client(), bucket, gateway.endpoint, tmp_path / "root")
    store.fill({"s/a b.dat": b"one", "s/c.dat": b"two"})
    (tmp_path / "shelf").mkdir()
    remote = f"{{name: shelf, type: directory, options: {{directory: '{tmp_path}/shelf', encryption: none}}}}"
    config = f"access: private\ndatasets: {{path: datasets, remote: {remote}}}\n"
    mirror(store, "update", config=config)
    assert mirror(store, "populate", config=config).stdout == "s: copied to shelf\n"
    kept = sorted(path.read_bytes() for path in (tmp_path / "shelf").rglob("*") if path.is_file())
    assert kept == [b"one", b"two"]
    assert "agrees" in mirror(store, "verify", config=config).stdout


@pytest.mark.long
def test_a_remote_that_someone_changed_is_not_used(gateway, bucket, mirror, tmp_path) -> None:
    need_program("git-annex", "datalad")
    gateway.make_bucket(bucket, versioned=True)
    allow_loopback()
    store = Bucket(gateway.client(), bucket, gateway.endpoint, tmp_path / "root")
    store.fill({"s/a.dat": b"one"})
    (tmp_path / "shelf").mkdir()
    remote = f"{{name: shelf, type: directory, options: {{directory: '{tmp_path}/shelf', encryption: none}}}}"
    config = f"access: private\ndatasets: {{path: datasets, remote: {remote}}}\n"
    mirror(store, "update", config=config)
    place = clone(tmp_path)
    datalad("get", "-n", "s", cwd=place)
    git("annex", "enableremote", "bucket", "storageclass=GLACIER", cwd=place / "s")
    git("push", "-q", "--no-verify", "origin", "git-annex", cwd=place / "s")
    refused = mirror(store, "populate", config=config, code=3)
    assert "someone changed the remote bucket" in refused.stderr
    assert not any(path.is_file() for path in (tmp_path / "shelf").rglob("*"))


@pytest.mark.long
def test_sessions_of_job_lists_form_one_superdataset(gateway, store: Bucket, run, tmp_path) -> None:
    """The tutorial of docs/reference/mirror.md: a list, the mirror, another list, the mirror again."""

    # One modality of each session goes straight from its source, so it has a manifest of its own.
    path = write_list(tmp_path, store.name, 3, more=",modality1.skip_staging", cells=",TRUE")
    header, *rows = path.read_text().splitlines(keepends=True)

    def send(*rows: str) -> None:
        path.write_text("".join([header, *rows]))
        done = run(*arguments(path, gateway), timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"{len(rows)} done" in done.stdout

    def mirrored() -> str:
        done = run("-m", "lading", "mirror", "--store", "mirror", "--manifest", "runs", "update", cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return str(done.stdout)

    send(*rows[:2])
    assert len(list((tmp_path / "runs").glob("**/manifest.jsonl.zst"))) == 4
    assert "2 datasets updated" in mirrored()
    send(rows[2])
    assert "1 dataset updated, 2 unchanged" in mirrored()
    datalad("clone", f"ria+file://{tmp_path}/mirror#~super", "lab", cwd=tmp_path)
    datalad("get", "-r", ".", cwd=tmp_path / "lab")
    pages = store.client.get_paginator("list_objects_v2").paginate(Bucket=store.name)
    keys = [item["Key"] for page in pages for item in page["Contents"]]
    objects = {key: store.client.get_object(Bucket=store.name, Key=key)["Body"].read() for key in keys}
    assert {key.split("/")[0] for key in keys} == {f"behavior_{1000 + n}_2024-05-27_16-07-{n:02d}" for n in range(3)}
    assert content(tmp_path / "lab") == objects
