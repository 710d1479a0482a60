"""A DANDI archive and its mirror: the API's documented shapes on loopback, real git, git-annex and DataLad."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lading.cli import import_manifest
from lading.cli import mirror as mirror_command
from lading.core.errors import LadingError
from lading.core.yaml_file import read_yaml
from lading.mirror import web_api
from lading.mirror.importers import dandi_api, dandi_zarr
from tests.conftest import need_program
from tests.mirrors import allow_loopback, content, datalad, git, head, heads, repository
from tests.servers import moto
from tests.servers.dandi import BUCKET, KEY, Archive, Item, body_of, checksum_of, chunk_of, entries_of, moment, serve

SETTINGS = "datasets: {path: datasets}\nzarrs: {path: datasets}\nmanifest: manifests\n"
SESSION = "sub-000/sub-000_ses-00001_ecephys.nwb"


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    need_program("git-annex")
    for module, name in (
        (web_api, "FIRST_PAUSE"),
        (web_api, "LEAST_PAUSE"),
        (dandi_api, "PAUSE"),
        (dandi_zarr, "PAUSE"),
    ):
        monkeypatch.setattr(module, name, 0.001)
    with serve(Archive()) as found:
        yield found


@pytest.fixture
def lading(archive: Archive, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``lading("import")`` and ``lading("mirror")`` in this process; returns what was said."""
    monkeypatch.chdir(tmp_path)

    def call(what: str, *more: str, code: int = 0, settings: str = SETTINGS) -> str:
        Path("mirror.yaml").write_text(settings)
        if what == "import":
            where = ["dandi+" + archive.api, "-c", "mirror.yaml"]
            where += [] if archive.bucket_url else ["--endpoint-url", archive.url, "--no-sign-request"]
            main, words = import_manifest.main, [*where, *more]
        else:
            main, words = mirror_command.main, ["-c", "mirror.yaml", *(more or ("update",))]
        found, said = 0, ""
        try:
            found = main(words)
        except LadingError as error:
            found, said = error.exit_code, str(error)
        shown = capsys.readouterr()
        said += shown.out + shown.err
        assert found == code, said
        return said

    return call


def show(where: Path, name: str) -> bytes:
    return git("show", name, cwd=where)


def trees(tmp_path: Path, store: str) -> dict[str, bytes]:
    """What every branch of every dataset but the superdataset holds, whatever its history."""
    found = {}
    for where in sorted((tmp_path / store).glob("???/*")):
        if where != (tmp_path / store / "alias" / "super").resolve():
            for line in git("for-each-ref", "--format=%(refname) %(tree)%(*tree)", cwd=where).splitlines():
                found[f"{where.relative_to(tmp_path / store)} {line.split()[0].decode()}"] = line
    return found


def subjects(where: Path) -> list[str]:
    return git("log", "--format=%s", "main", cwd=where).decode().splitlines()


def names(where: Path, ref: str = "main") -> list[str]:
    return git("ls-tree", "-r", "--name-only", ref, cwd=where).decode().splitlines()


@pytest.mark.long
def test_from_the_archive_to_its_files(archive: Archive, lading, tmp_path: Path) -> None:
    need_program("datalad")
    allow_loopback()
    archive.add("000003", generated=3)
    archive.add("000026")
    store = archive.put("000026", "sub-1/sample.ome.zarr", zarr=5)
    # One blob that two assets name.
    archive.put("000026", "a/one.nwb", "same")
    archive.put("000026", "b/two.nwb", "same")
    archive.publish("000003", "0.240101.0001")
    archive.remove("000003", SESSION)

    assert "2 dandisets; 2 changed" in lading("import")
    assert "1 version tagged" in lading("mirror")
    assert "agrees" in lading("mirror", "verify")
    datalad("clone", f"ria+file://{tmp_path}/datasets#~super", "clone", cwd=tmp_path)
    datalad("get", "-r", ".", cwd=tmp_path / "clone")
    found = content(tmp_path / "clone")
    assert found["000026/a/one.nwb"] == found["000026/b/two.nwb"] == body_of("same")
    for path, name in entries_of(store):
        assert found[f"000026/sub-1/sample.ome.zarr/{path}"] == chunk_of(name)
    git("annex", "fsck", "--quiet", cwd=tmp_path / "clone" / "000026")
    # A sample of the content, through git-annex; bytes that differ are found.
    assert "4 files, " in lading("mirror", "verify", "--fsck", "4", "--seed", "x")
    archive.damage = True
    said = lading("mirror", "verify", "--fsck", "2", code=4)
    assert said.count("Verification of content failed") == 2 or "failed" in said
    archive.damage = False
    # What the reference writes, and where: metadata, the list of assets, the version as a tag.
    where = repository(tmp_path, "000003")
    assert read_yaml_text(show(where, "main:dandiset.yaml"))["identifier"] == "DANDI:000003"
    listed = json.loads(show(where, "main:.dandi/assets.json"))
    assert [item["path"] for item in listed] == ["dataset_description.json", "sub-000/sub-000_ses-00002_ecephys.nwb"]
    assert set(listed[0]) >= {"asset_id", "blob", "path", "size", "created", "modified", "metadata"}
    assert json.loads(show(where, "main:.dandi/assets-state.json")) == {
        "timestamp": moment(archive.dandisets["000003"].modified).replace("+00:00", "Z")
    }
    assert show(where, "main:dataset_description.json") == body_of("000003/dataset_description.json")
    assert SESSION in names(where, "0.240101.0001")
    assert SESSION not in names(where)
    assert b"DOI: 10.48324/dandi.000003/0.240101.0001" in git("tag", "-n9", cwd=where)
    assert read_yaml_text(show(where, "0.240101.0001:dandiset.yaml"))["version"] == "0.240101.0001"
    checksum = show(repository(tmp_path, "000026/sub-1/sample.ome.zarr"), "main:.mirror/zarr-checksum")
    assert checksum.decode().strip() == checksum_of(store)


def read_yaml_text(data: bytes) -> dict:
    path = Path("read.yaml")
    path.write_bytes(data)
    return read_yaml(path).value


def test_what_did_not_change_costs_one_request_and_no_commit(archive: Archive, lading, tmp_path: Path) -> None:
    for number in range(3, 8):
        archive.add(f"{number:06d}", generated=2)
    archive.put("000004", "x.zarr", zarr=3)
    lading("import")
    lading("mirror")
    before = heads(tmp_path / "datasets")
    archive.reset()
    assert "5 dandisets; 0 changed" in lading("import")
    assert len(archive.asked) == 1
    assert "nothing changed" in lading("mirror")
    # The note is gone, and still nothing is read of datasets that did not change.
    (tmp_path / "datasets" / ".lading" / "done.json").unlink()
    lading("mirror")
    assert heads(tmp_path / "datasets") == before

    archive.put("000005", "new.nwb")
    archive.remove("000006", SESSION)
    archive.publish("000007", "0.1")
    del archive.dandisets["000003"]
    archive.reset()
    said = lading("import")
    assert "3 changed, 1 removed" in said
    assert not [line for line in archive.asked if "000004" in line]
    said = lading("mirror")
    assert "3 datasets updated, 2 unchanged, 1 removed" in said
    assert "1 version tagged" in said
    after = heads(tmp_path / "datasets")
    moved = {name for name in after if before.get(name) != after[name] and "heads/main" in name}
    paths = ("", "000005", "000006", "000007")
    assert moved == {f"{repository(tmp_path, p).relative_to(tmp_path / 'datasets')} refs/heads/main" for p in paths}
    assert subjects(repository(tmp_path, "000005"))[0] == "Mirror: 1 added, 2 changed, 0 removed"
    assert subjects(repository(tmp_path, "000006"))[0] == "Mirror: 0 added, 2 changed, 1 removed"
    # A version is a commit of its own, with the draft on top.
    assert [line.partition(";")[0] for line in subjects(repository(tmp_path, "000007"))] == [
        *("Mirror: 0 added, 1 changed, 0 removed", "Mirror: version 0.1", "Mirror: 5 added, 0 changed, 0 removed")
    ]
    modules = show(repository(tmp_path, ""), "main:.gitmodules").decode()
    assert "000003" not in modules
    assert "000004" in modules


def test_an_embargo_that_is_lifted_keeps_the_history(archive: Archive, lading, tmp_path: Path, monkeypatch) -> None:
    archive.add("000003", generated=2)
    archive.add("000004", generated=2, embargo="EMBARGOED")
    archive.put("000004", "x.zarr", zarr=2)
    monkeypatch.setenv("DANDI_API_KEY", KEY)
    public = SETTINGS + "private_stores: [private]\n"
    private = SETTINGS.replace("datasets}", "private}").replace("manifests", "embargoed") + "access: private\n"
    assert "1 dandiset, 1 embargoed left out" in lading("import", settings=public)
    lading("mirror", settings=public)
    assert "1 dandiset, 1 open left out" in lading("import", "-o", "embargoed", settings=private)
    lading("mirror", settings=private)
    said = b"".join(path.read_bytes() for path in Path("manifests").rglob("*.*") if path.is_file())
    assert b"000004" not in said
    assert "000004" not in names(repository(tmp_path, ""))
    identifier = json.loads((tmp_path / "private/.lading/manifests.json").read_text())
    assert identifier
    hidden = sorted(tmp_path.glob("private/???/*"))
    ours = next(path for path in hidden if b"ses-00001" in git("ls-tree", "-r", "main", cwd=path))
    first = head(ours)
    assert b"autoenable=true" in show(ours, "git-annex:remote.log")

    archive.dandisets["000004"].embargo = "OPEN"
    assert "1 changed, 0 removed" in lading("import", settings=public)
    assert "2 datasets updated" in lading("mirror", settings=public)
    now = repository(tmp_path, "000004")
    assert first in git("log", "--format=%H", "main", cwd=now).decode()
    # Clones fetch by web URLs now, and are asked for no credentials.
    remote = show(now, "git-annex:remote.log").splitlines()[-1]
    assert b"autoenable=false" in remote
    assert remote.split(b" ")[0] + b" X" in show(now, "git-annex:trust.log")
    assert f"{archive.url}/dandiarchive/blobs/".encode() in git("grep", "-h", "http", "git-annex", cwd=now)
    assert "agrees" in lading("mirror", "verify", settings=public)
    # The private mirror lets it go, without a flag: the archive itself said so.
    assert "1 removed" in lading("import", "-o", "embargoed", settings=private)


def _bad_contents(archive: Archive) -> dict[str, str]:
    """Fill an archive with what cannot be mirrored; returns a part of the message on each."""
    archive.add("000003", generated=3)
    archive.add("000004", has_draft=False)
    archive.put("000003", "case/A.nwb")
    archive.put("000003", "case/a.nwb")
    archive.put("000003", "Case/b.nwb")
    archive.put("000003", "up/../../x.nwb")
    archive.put("000003", "no-digest.nwb", more={"metadata": {"digest": {"dandi:dandi-etag": "0" * 32 + "-1"}}})
    archive.put("000003", "elsewhere.nwb", more={"metadata": {"contentUrl": ["https://example.org/blobs/1"]}})
    archive.put("000003", "dandiset.yaml")
    archive.put("000003", "a\x1b[31m\nb.nwb", more={"size": -1})
    archive.put("000003", "new.zarr", zarr=2, more={"metadata": {"digest": {}}})
    return {
        "000004: it has no versions": "",
        "000003/case/a.nwb: 'case/a.nwb' equals 'case/A.nwb' up to case": "",
        "000003/case/A.nwb: 'case' equals 'Case' up to case": "",
        "up/../../x.nwb: no clone can have its path": "",
        "no-digest.nwb: all that is known of its content: size only": "",
        "elsewhere.nwb: none of its contentUrl is in the bucket dandiarchive": "",
        "dandiset.yaml: the mirror has a file of its own of this name": "",
        "new.zarr: the archive has no checksum of this Zarr store yet": "",
    }


def test_what_cannot_be_mirrored_is_named_and_the_rest_done(archive: Archive, lading, tmp_path: Path) -> None:
    wanted = _bad_contents(archive)
    said = lading("import", code=3)
    for words in wanted:
        assert words in said or words.replace("'case/a.nwb' equals 'case/A.nwb'", "'case' equals 'Case'") in said, said
    assert "\x1b" not in said
    lading("mirror")
    assert "failures; mirror.html" in lading("mirror", "report")
    page = Path("mirror.html").read_text()
    assert "000003/elsewhere.nwb" in page
    assert "its contentUrl is in the bucket" in page
    assert "\x1b" not in page
    found = names(repository(tmp_path, "000003"))
    assert {"Case/b.nwb", SESSION, "dataset_description.json"} <= set(found)
    assert not [name for name in found if name.lower() in ("case/a.nwb", "no-digest.nwb")]
    # What is mended is taken; what was refused is asked for again although its dandiset did not change.
    archive.dandisets["000003"].own["no-digest.nwb"].more.clear()
    assert "no-digest" not in lading("import", code=3)
    lading("mirror")
    assert "no-digest.nwb" in names(repository(tmp_path, "000003"))
    # Nothing is lost when an asset loses its digest: its manifest is not complete.
    archive.put("000003", "no-digest.nwb", more={"metadata": {"digest": {}}})
    lading("import", code=3)
    lading("mirror")
    assert "no-digest.nwb" in names(repository(tmp_path, "000003"))


def test_keys_of_the_settings(archive: Archive, lading, tmp_path: Path) -> None:
    archive.add("000003", generated=3)
    regex = SETTINGS + "content_url_regex: 'amazonaws.com/.*blobs/'\n"
    assert "content_url_regex 'amazonaws.com/.*blobs/' matches none" in lading("import", code=3, settings=regex)
    only = SETTINGS + "content_url_regex: 'dandiarchive/.*blobs/'\nasset_filter: 'ses-0000[12]'\n"
    lading("import", settings=only)
    listed = json.loads(_attached(tmp_path, "000003", ".dandi/assets.json"))
    assert [item["path"] for item in listed] == [SESSION, SESSION.replace("00001", "00002")]
    # The pattern is of blobs; a Zarr store has none, and is mirrored all the same.
    archive.put("000003", "x.zarr", zarr=2)
    lading("import", settings=SETTINGS + "content_url_regex: 'dandiarchive/.*blobs/'\n")
    lading("mirror", settings=SETTINGS + "content_url_regex: 'dandiarchive/.*blobs/'\n")
    # mode verify: a change that no newer time announces is an error.
    archive.put("000003", "secret.nwb")
    lading("import")
    archive.dandisets["000003"].own["more.nwb"] = Item("more.nwb", "more", archive.clock)
    assert "mode verify: it changed" in lading("import", "--mode", "verify", code=3)
    lading("import", "--mode", "force")
    # A clock that runs backwards is one, too.
    archive.dandisets["000003"].modified = 1
    assert "and now the archive says" in lading("import", code=3)


def test_a_filter_leaves_the_rest_as_it_is(archive: Archive, lading, tmp_path: Path) -> None:
    archive.add("000003", generated=4)
    archive.put("000003", "x.zarr", zarr=2)
    archive.publish("000003", "0.1")
    # The pattern is of paths in the dandiset, here and in the mirror, which reads the same settings.
    only = SETTINGS + "asset_filter: '^sub-000/.*ses-0000[12]'\n"
    lading("import")
    lading("mirror")
    before = names(repository(tmp_path, "000003"))
    archive.put("000003", SESSION, "other")
    archive.put("000003", "late.nwb")
    lading("import", settings=only)
    lading("mirror", settings=only)
    where = repository(tmp_path, "000003")
    assert set(before) <= set(names(where)), "nothing goes"
    assert "late.nwb" not in names(where)
    assert git("log", "-1", "--format=%H", "--", SESSION, cwd=where) == git("log", "-1", "--format=%H", cwd=where)
    assert "x.zarr" in git("show", "main:.gitmodules", cwd=where).decode()
    assert git("tag", cwd=where) == b"0.1\n"


def _attached(tmp_path: Path, identifier: str, name: str) -> bytes:
    from lading.mirror.importers.dataset_directory import DatasetDirectory

    directory = DatasetDirectory(tmp_path / "manifests" / identifier)
    note = directory.note()
    assert note is not None
    return (directory.path / "attached" / note.attached[name]).read_bytes()


def test_size_only_is_refused_unless_asked_for(archive: Archive, lading, tmp_path: Path) -> None:
    archive.add("000003")
    digest = {"metadata": {"digest": {"dandi:dandi-etag": "0" * 32 + "-1"}}}
    archive.put("000003", "a.nwb", more=digest)
    lading("import", code=3)
    lading("import", "--accept", "size")
    lading("mirror")
    target = show(repository(tmp_path, "000003"), "main:a.nwb")
    assert b"/URL-s192--" in target
    assert "agrees" in lading("mirror", "verify")


def _faults(
    archive: Archive, path: str, query: dict[str, str], number: int
) -> tuple[int, bytes, dict[str, str]] | None:
    """Refuse, break off and cut short what is asked for the first, second and third time."""
    seen = sum(1 for line in archive.asked if line.partition("?")[0] == f"GET {path}" or f" {path}" in line)
    if path.startswith("/api/") and seen == 1:
        return 429, b'{"detail": "slow down"}', {"Retry-After": "0"}
    if path.startswith("/api/") and seen == 2:
        return 500, b"<html>oops</html>", {}
    if path.startswith("/api/") and seen == 3:
        return 200, b'{"count": 3, "next": null, "results": [{"iden', {}
    if path.startswith("/api/") and seen == 4:
        return 200, b'{"count": 3, "next"', {"Content-Length": "900"}
    return None


def test_an_api_that_answers_badly(archive: Archive, lading, tmp_path: Path) -> None:
    archive.add("000003", generated=3)
    archive.put("000003", "x.zarr", zarr=3)
    archive.fault = _faults
    assert "0 failures" in lading("import")
    lading("mirror")
    bad = trees(tmp_path, "datasets")
    archive.fault = None
    settings = SETTINGS.replace("datasets}", "again}").replace("manifests", "others")
    lading("import", "-o", "others", settings=settings)
    lading("mirror", settings=settings)
    assert trees(tmp_path, "again") == bad


def test_assets_that_move_between_pages(archive: Archive, lading, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("lading.mirror.importers.dandi_api.PAGE", 5)
    archive.add("000003", generated=23)
    moves = iter(range(3))

    def move(archive: Archive, path: str, query: dict[str, str], number: int) -> None:
        # After the second page one asset goes and another comes: the count stays, an asset is on no page.
        if path.endswith("/assets/") and query.get("page") == "3" and (step := next(moves, None)) is not None:
            archive.remove("000003", f"sub-000/sub-000_ses-0000{step + 1}_ecephys.nwb")
            archive.put("000003", f"zzz/{step}.nwb")

    archive.fault = move
    assert "0 failures" in lading("import")
    listed = [item["path"] for item in json.loads(_attached(tmp_path, "000003", ".dandi/assets.json"))]
    assert listed == [item.path for item in archive.dandisets["000003"].items()]
    # One that never settles is named; the others are done, and it keeps what it had.
    archive.add("000004", generated=2)
    archive.touch("000003")

    def never(archive: Archive, path: str, query: dict[str, str], number: int) -> None:
        if path.endswith("/assets/") and query.get("page") == "3":
            archive.put("000003", f"y/{number}.nwb")

    archive.fault = never
    said = lading("import", code=3)
    assert "000003: its assets changed each time they were listed" in said or "000003" in said
    assert "000004: 2 objects" in said


def test_zarr_manifests_and_a_store_that_is_written_to(archive: Archive, lading, tmp_path: Path) -> None:
    archive.add("000003")
    archive.put("000003", "x.zarr", zarr=1500)
    lading("import", "--zarr-manifests", f"{archive.url}/zarr-manifests")
    lading("mirror")
    by_manifest = trees(tmp_path, "datasets")
    assert not [line for line in archive.asked if "versions" in line and "zarr%2F" in line]
    settings = SETTINGS.replace("datasets}", "again}").replace("manifests", "others")
    lading("import", "-o", "others", settings=settings)
    lading("mirror", settings=settings)
    # The bucket's listing says the same; what links it names its commit, whose message has the manifest's digest.
    again = trees(tmp_path, "again")
    assert sum(again[name] != by_manifest[name] for name in again) == 1
    # What the archive says is not what is there: named, and nothing of it is written.
    wrong = {"metadata": {"digest": {"dandi:dandi-zarr-checksum": "0" * 32 + "-1--1"}}}
    archive.put("000003", "y.zarr", zarr=2, more=wrong)
    said = lading("import", code=3)
    assert "000003/y.zarr: its entries in the bucket have the Zarr checksum" in said
    lading("mirror")
    assert "y.zarr" not in show(repository(tmp_path, ""), "main:.mirror/datasets.json").decode()


def test_two_at_once_and_another_import(archive: Archive, lading, tmp_path: Path) -> None:
    from lading.cli.import_dandi import _lock

    archive.add("000003", generated=1)
    child = os.fork()
    if child == 0:  # POSIX locks are between processes
        with _lock(Path("manifests")):
            Path("held").touch()
            while not Path("done").exists():
                os.sched_yield()
        os._exit(0)
    while not Path("held").exists():
        os.sched_yield()
    assert "another import works on manifests" in lading("import", code=75)
    Path("done").touch()
    os.waitpid(child, 0)
    lading("import")
    assert "holds an import of" in lading("import", "--endpoint-url", archive.url + "/elsewhere", code=2)


def upload(archive: Archive, client) -> None:
    """Put every object of the archive's own assets into a real bucket, where its content differs from before."""
    for dandiset in archive.dandisets.values():
        for item in dandiset.items():
            blob = item.blob
            files = {f"blobs/{blob[:3]}/{blob[3:6]}/{blob}": body_of(item.content)}
            if item.zarr is not None:
                files = {f"zarr/{item.zarr_id}/{path}": chunk_of(name) for path, name in entries_of(item)}
            for key, data in files.items():
                client.put_object(Bucket=BUCKET, Key=key, Body=data)


@pytest.mark.long
def test_a_versioned_bucket_and_an_embargo_with_content(archive: Archive, lading, tmp_path: Path, monkeypatch) -> None:
    need_program("datalad", "moto_server")
    allow_loopback()
    with moto.serve() as server:
        for name, value in moto.ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("DANDI_API_KEY", KEY)
        server.make_bucket(BUCKET, versioned=True)
        # HeadObject is no action of S3, but moto asks for it.
        allowed = {"Effect": "Allow", "Principal": "*", "Resource": [f"arn:aws:s3:::{BUCKET}/*"]}
        allowed["Action"] = ["s3:GetObject", "s3:GetObjectVersion", "s3:HeadObject"]
        policy = {"Version": "2012-10-17", "Statement": [allowed]}
        server.client().put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(policy))
        archive.bucket_url = f"{server.endpoint}/{BUCKET}"
        archive.add("000003", generated=3)
        archive.add("000004", generated=2, embargo="EMBARGOED")
        store = archive.put("000003", "x.ome.zarr", zarr=4)
        upload(archive, server.client())
        public = SETTINGS + f"s3endpoint: {server.endpoint}\nprivate_stores: [private]\n"
        private = public.partition("private_stores")[0].replace("datasets}", "private}").replace("manifests", "hidden")
        private += "access: private\n"
        lading("import", "--versions", settings=public)
        lading("mirror", settings=public)
        log = git("grep", "-h", "blobs", "git-annex", cwd=repository(tmp_path, "000003"))
        assert log.count(b"?versionId=") == log.count(b"http")
        # Entries are written over in place: each commit has those of its day.
        archive.put("000003", "x.ome.zarr", zarr=4)
        upload(archive, server.client())
        lading("import", "--versions", settings=public)
        lading("mirror", settings=public)
        datalad("clone", f"ria+file://{tmp_path}/datasets#~super", "clone", cwd=tmp_path)
        datalad("get", "-n", "-r", ".", cwd=tmp_path / "clone")
        zarr = tmp_path / "clone" / "000003" / "x.ome.zarr"
        new = archive.dandisets["000003"].own["x.ome.zarr"]
        for ref, item in (("HEAD", new), ("HEAD~1", store)):
            git("checkout", "-q", ref, cwd=zarr)
            git("annex", "get", "--quiet", ".", cwd=zarr)
            assert {path: (zarr / path).read_bytes() for path, _ in entries_of(item)} == {
                path: chunk_of(name) for path, name in entries_of(item)
            }
        # Embargoed: by credentials and versions; public afterwards, without.
        lading("import", "-o", "hidden", settings=private)
        lading("mirror", settings=private)
        datalad("clone", f"ria+file://{tmp_path}/private#~super", "closed", cwd=tmp_path)
        datalad("get", "-r", ".", cwd=tmp_path / "closed")
        wanted = {item.path: body_of(item.content) for item in archive.dandisets["000004"].items()}
        assert {path: (tmp_path / "closed" / "000004" / path).read_bytes() for path in wanted} == wanted
        archive.dandisets["000004"].embargo = "OPEN"
        lading("import", "--versions", settings=public)
        lading("mirror", settings=public)
        for name in moto.ENVIRONMENT:
            monkeypatch.delenv(name)
        datalad("clone", f"ria+file://{tmp_path}/datasets#~super", "open", cwd=tmp_path)
        datalad("get", "-r", "000004", cwd=tmp_path / "open")
        assert {path: (tmp_path / "open" / "000004" / path).read_bytes() for path in wanted} == wanted


def test_a_version_whose_zarr_was_never_seen_is_named_once(archive: Archive, lading, tmp_path: Path) -> None:
    """Nobody can mirror what the store was then, so that is no failure of every later run."""
    archive.add("000001", generated=3)
    archive.put("000001", "z.zarr", zarr=5)
    archive.publish("000001", "0.240101.0000")
    archive.put("000001", "z.zarr", zarr=6)
    lading("import")
    said = lading("mirror", code=3)
    assert "000001@0.240101.0000: it links 1 Zarr store as no run has mirrored, first z.zarr" in said
    assert "later runs do not name it" in said
    assert "nothing changed" in lading("mirror")
    archive.put("000001", "more.nwb")
    lading("import")
    said = lading("mirror")
    assert "no run has mirrored" not in said
    assert "1 version cannot be tagged" in said
    archive.publish("000001", "0.240102.0000")
    lading("import")
    lading("mirror")
    assert git("tag", cwd=repository(tmp_path, "000001")) == b"0.240102.0000\n"
    lading("mirror", "report")
    assert "as no run has mirrored" in Path("mirror.html").read_text()
