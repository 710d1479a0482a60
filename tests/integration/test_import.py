"""``lading import``: manifests of buckets that others filled, from real servers and lists, and the mirror of them."""

import csv
import gzip
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lading.mirror.split import Splitter
from lading.verification.manifest import Strength, read_manifest
from tests.conftest import need_program
from tests.mirrors import allow_loopback, content, datalad, git, repository
from tests.servers import moto

FILES = {
    "sub-1/sub-1_ecephys.nwb": b"raw " * 1000,
    "sub-1/sub-1.json": b'{"id": 1}\n',
    "sub-2/über uns & mehr.nwb": b"more",
    "dataset_description.json": b"{}\n",
    "sub-3/img.zarr/.zgroup": b"{}",
    "sub-3/img.zarr/0": b"chunk",
}


@pytest.fixture
def lading(run, tmp_path) -> Callable[..., str]:
    """Run a command of ``lading``; returns what it said."""

    def call(*arguments: object, code: int = 0) -> str:
        done = run("-m", "lading", *arguments, cwd=tmp_path)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return str(done.stdout + done.stderr)

    return call


def fill(client: Any, bucket: str, files: Mapping[str, bytes], prefix: str = "") -> None:
    for path, data in files.items():
        client.put_object(Bucket=bucket, Key=prefix + path, Body=data)


def levels(path: Path) -> dict[str, str | None]:
    return {row.path: row.level for row in read_manifest(path).rows()}


@pytest.mark.xdist_group("rgw")
@pytest.mark.long
def test_from_a_foreign_bucket_to_its_files_in_three_commands(gateway, bucket, lading, tmp_path) -> None:
    need_program("git-annex", "datalad")
    allow_loopback()
    gateway.make_bucket(bucket, versioned=True)
    client = gateway.client()
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": ["*"]},
                "Action": ["s3:GetObject", "s3:GetObjectVersion"],
                "Resource": [f"arn:aws:s3:::{bucket}/*"],
            }
        ],
    }
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    fill(client, bucket, {"sub-1/sub-1.json": b"old", "gone.txt": b"x"}, "ds1/")
    client.delete_object(Bucket=bucket, Key="ds1/gone.txt")
    fill(client, bucket, FILES, "ds1/")
    client.put_object(Bucket=bucket, Key="ds1/folder/", Body=b"")
    client.put_object(Bucket=bucket, Key="ds10/other", Body=b"not below the prefix")

    flags = ["--endpoint-url", gateway.endpoint]
    said = lading("import", f"s3://{bucket}/ds1", "--accept", "etag", *flags)
    assert "6 objects" in said
    assert "6 md5 etag" in said
    manifest = read_manifest(tmp_path / "manifest.jsonl.zst")
    assert manifest.end.complete
    rows = {row.path: row for row in manifest.rows()}
    assert rows.keys() == FILES.keys()
    assert {row.strength for row in rows.values()} == {Strength.MD5}
    assert all(rows[path].md5 == hashlib.md5(data).hexdigest() for path, data in FILES.items())
    assert all(row.version_id for row in rows.values())

    lading("mirror", "--store", "mirror", "update")
    datalad("clone", f"ria+file://{tmp_path}/mirror#~super", "clone", cwd=tmp_path)
    # What came after the import does not matter: each file is had in the version that was listed.
    client.put_object(Bucket=bucket, Key="ds1/sub-1/sub-1_ecephys.nwb", Body=b"newer")
    datalad("get", "-r", ".", cwd=tmp_path / "clone")
    assert content(tmp_path / "clone") == FILES


@pytest.mark.xdist_group("rgw")
def test_what_has_no_digest_is_named_and_the_rest_done(gateway, bucket, lading, tmp_path) -> None:
    gateway.make_bucket(bucket)
    client = gateway.client()
    fill(client, bucket, {"a": b"1", "b//c": b"2"})
    upload = client.create_multipart_upload(Bucket=bucket, Key="parts.nwb")["UploadId"]
    part = client.upload_part(Bucket=bucket, Key="parts.nwb", UploadId=upload, PartNumber=1, Body=b"x" * 10)
    client.complete_multipart_upload(
        Bucket=bucket,
        Key="parts.nwb",
        UploadId=upload,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )
    flags = ["--endpoint-url", gateway.endpoint]
    # Nothing rests on more than an ETag: nothing is written unless that is asked for.
    said = lading("import", f"s3://{bucket}", *flags, code=2)
    assert "--accept etag" in said
    assert "no manifest was written" in said
    assert not (tmp_path / "manifest.jsonl.zst").exists()
    said = lading("import", f"s3://{bucket}", "--accept", "etag", *flags, code=3)
    assert "parts.nwb: all that is known of its content: size only" in said
    assert "b//c: no clone can have its path" in said
    assert levels(tmp_path / "manifest.jsonl.zst") == {"a": "md5 etag"}
    assert not read_manifest(tmp_path / "manifest.jsonl.zst").end.complete
    assert "there is nothing below" in lading("import", f"s3://{bucket}/none", *flags, "-o", "other.zst", code=2)


def claimed(key: str, data: bytes, **more: object) -> dict[str, object]:
    return {"key": key, "size": len(data), "sha256": hashlib.sha256(data).hexdigest(), **more}


def write_list(path: Path, records: Iterable[Mapping[str, object]]) -> Path:
    records = list(records)
    text = io.StringIO()
    if ".csv" in path.suffixes:
        writer = csv.DictWriter(text, list(dict.fromkeys(name for record in records for name in record)))
        writer.writeheader()
        writer.writerows(records)
    else:
        text.writelines(json.dumps(record) + "\n" for record in records)
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["list.csv", "list.csv.gz", "list.jsonl", "list.ndjson.gz"])
def test_a_list_of_an_archive(lading, tmp_path, name: str) -> None:
    records = [
        # DANDI's way: keys are blobs, paths are assets; the version is in the URL.
        claimed("blobs/b", b"two", path="000003/sub-2/two.nwb", modified="2025-02-01T00:00:00Z"),
        claimed("blobs/a", b"one", path="000003/sub-1/one.nwb", modified="2025-01-01T00:00:00Z", version="v7"),
        {
            "url": "https://arch.s3.us-east-2.amazonaws.com/blobs/c%20d?versionId=v9",
            "size": 5,
            "md5": hashlib.md5(b"three").hexdigest(),
            "path": "000004/three.json",
        },
    ]
    said = lading("import", write_list(tmp_path / name, records), "--bucket", "s3://arch")
    assert "1 md5 by the archive, 2 sha256 by the archive" in said
    manifest = read_manifest(tmp_path / "manifest.jsonl.zst")
    assert manifest.end.complete
    found = [(row.path, row.key, row.version_id) for row in manifest.rows()]
    assert found == [
        ("000003/sub-1/one.nwb", "blobs/a", "v7"),
        ("000003/sub-2/two.nwb", "blobs/b", None),
        ("000004/three.json", "blobs/c d", "v9"),
    ]


def test_the_mirror_of_a_list(lading, tmp_path) -> None:
    need_program("git-annex")
    write_list(tmp_path / "list.csv", [claimed("blobs/a", b"one", path="000003/one.nwb", version="v1")])
    # A file of that name in the working directory is none of the archive's.
    (tmp_path / "000003").mkdir()
    (tmp_path / "000003" / "README.md").write_text("mine")
    lading("import", "list.csv", "--bucket", "s3://arch")
    lading("mirror", "--store", "datasets", "update")
    where = repository(tmp_path, "000003")
    key = f"SHA256E-s3--{hashlib.sha256(b'one').hexdigest()}.nwb"
    assert key.encode() in git("show", "main:one.nwb", cwd=where)
    log = git("grep", "-h", "versionId", "git-annex", cwd=where)
    assert b"https://arch.s3.amazonaws.com/blobs/a?versionId=v1" in log
    assert "agrees" in lading("mirror", "--store", "datasets", "verify")
    # The same content listed anew, later: nothing to do but the new list itself.
    write_list(tmp_path / "list.csv", [claimed("blobs/a", b"ONE", path="000003/one.nwb", version="v2")])
    lading("import", "list.csv", "--bucket", "s3://arch")
    said = lading("mirror", "--store", "datasets", "update")
    assert "1 dataset updated" in said, "an object that changed in place, with no time in the list"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"key": "a", "size": 1, "sha256": "xyz"}, "its sha256 is not 64 hex digits"),
        ({"key": "a", "size": 1, "md5": "0" * 31}, "its md5 is not 32 hex digits"),
        ({"key": "a", "size": 1}, "all that is known of its content: size only"),
        ({"key": "a", "sha256": "0" * 64}, "it has no size"),
        ({"size": 1, "sha256": "0" * 64}, "it has neither a key nor a url"),
        ({"url": "https://elsewhere.org/a", "size": 1, "sha256": "0" * 64}, "is not in the bucket arch"),
        ({"url": "https://arch.s3.evil.org/a", "size": 1, "sha256": "0" * 64}, "is not in the bucket arch"),
        ({"key": "a", "path": "../../etc/passwd", "size": 1, "sha256": "0" * 64}, "no clone can have its path"),
        ({"key": "a", "path": "a/.git/../b", "size": 1, "sha256": "0" * 64}, "no clone can have its path"),
        ({"key": "good", "path": "again", "size": 1, "sha256": "0" * 64}, "is listed twice"),
        ({"key": "a", "size": 1, "sha256": "0" * 64, "modified": "yesterday"}, "yesterday"),
        ({"key": "a\x1b[31m", "size": 1}, "size only"),
    ],
)
def test_a_row_that_is_none_is_named_and_the_rest_done(lading, tmp_path, record: dict, reason: str) -> None:
    write_list(tmp_path / "list.jsonl", [claimed("good", b"1"), record])
    said = lading("import", "list.jsonl", "--bucket", "s3://arch", code=3)
    assert reason in said
    assert "\x1b" not in said
    assert [row.key for row in read_manifest(tmp_path / "manifest.jsonl.zst").rows()] == ["good"]


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("list.csv", b"key,size,sha-256\n", "which Lading does not read"),
        ("list.jsonl", b"{}\n[1]\n", "is not an object"),
        ("list.jsonl", b'{"key": \n', "not JSON"),
        ("list.csv", b"key,size\n\xff,1\n", "is not a list of objects"),
        ("list.csv.gz", b"not gzip", "list.csv.gz"),
        ("list.txt", b"", "is not a source"),
        ("manifest.json", b"[]", "is not the manifest.json of an S3 Inventory"),
    ],
)
def test_what_is_no_source_is_one_sentence(lading, tmp_path, name: str, data: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(data)
    said = lading("import", name, "--bucket", "s3://arch", code=2)
    assert reason in said
    assert said.count("\n") == 1
    assert not (tmp_path / "manifest.jsonl.zst").exists()


def write_inventory(tmp_path: Path, rows: Iterable[Iterable[object]], **more: object) -> Path:
    """An inventory as S3 lays it out: the manifest in a folder of its date, the data beside."""
    folder = tmp_path / "inventory" / "2026-11-01T01-00Z"
    (folder.parent / "data").mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
    data = gzip.compress(text.getvalue().encode())
    (folder.parent / "data" / "one.csv.gz").write_bytes(data)
    record = {
        "sourceBucket": "arch",
        "destinationBucket": "arn:aws:s3:::inventories",
        "version": "2016-11-30",
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, LastModifiedDate, ETag",
        "files": [{"key": "x/data/one.csv.gz", "size": len(data), "MD5checksum": hashlib.md5(data).hexdigest()}],
        **more,
    }
    (folder / "manifest.json").write_text(json.dumps(record))
    return folder / "manifest.json"


def test_an_inventory(lading, tmp_path) -> None:
    when, etag = "2026-10-01T00:00:00.000Z", hashlib.md5(b"x").hexdigest()
    path = write_inventory(
        tmp_path,
        [
            ("arch", "data/z", "v3", "true", "false", 1, when, etag),
            ("arch", "data/z", "v2", "false", "false", 2, when, etag),
            ("arch", "data/gone", "v2", "true", "true", "", when, ""),
            ("arch", "data/a%2Bb+c%C3%BC", "v1", "true", "false", 1, when, etag),
            ("arch", "else/x", "v1", "true", "false", 1, when, etag),
        ],
    )
    lading("import", path, "--bucket", "s3://arch/data", "--accept", "etag")
    rows = list(read_manifest(tmp_path / "manifest.jsonl.zst").rows())
    assert [(row.path, row.key, row.version_id) for row in rows] == [
        ("a+b cü", "data/a+b cü", "v1"),
        ("z", "data/z", "v3"),
    ]
    assert rows[0].uploaded_at == "2026-10-01T00:00:00.000+00:00"
    assert "not of other" in lading("import", path, "--bucket", "s3://other", code=2)


def test_an_inventory_that_is_not_whole_is_refused(lading, tmp_path) -> None:
    row = ("arch", "a", "v", "true", "false", 1, "2026-10-01T00:00:00.000Z", "0" * 32)
    flags = ["--accept", "etag"]
    assert "in ORC" in lading("import", write_inventory(tmp_path, [row], fileFormat="ORC"), *flags, code=2)
    assert "no ETag" in lading(
        "import", write_inventory(tmp_path, [row], fileSchema="Bucket, Key, Size, LastModifiedDate"), *flags, code=2
    )
    assert "not a row of this inventory" in lading("import", write_inventory(tmp_path, [row[:4]]), *flags, code=4)
    path = write_inventory(tmp_path, [row])
    data = tmp_path / "inventory" / "data" / "one.csv.gz"
    data.write_bytes(data.read_bytes()[:-1])
    assert "does not have the MD5" in lading("import", path, *flags, code=4)
    data.unlink()
    assert "is not beside it" in lading("import", path, *flags, code=2)
    assert not (tmp_path / "manifest.jsonl.zst").exists()


def write_parquet(tmp_path: Path, rows: Iterable[tuple[Any, ...]]) -> Path:
    """An inventory in Parquet, by the schema that S3 writes."""
    import pyarrow
    import pyarrow.parquet

    names = ["bucket", "key", "version_id", "is_latest", "is_delete_marker", "size", "last_modified_date", "e_tag"]
    kinds = (
        [pyarrow.string()] * 3 + [pyarrow.bool_()] * 2 + [pyarrow.int64(), pyarrow.timestamp("ms"), pyarrow.string()]
    )
    columns = [pyarrow.array(list(column), kind) for column, kind in zip(zip(*rows), kinds, strict=True)]
    path = write_inventory(tmp_path, [], fileFormat="Parquet")
    data = tmp_path / "inventory" / "data" / "one.parquet"
    pyarrow.parquet.write_table(pyarrow.table(columns, names=names), data)
    record = json.loads(path.read_text())
    schema = "message s3.inventory { " + " ".join(f"optional binary {name};" for name in names) + " }"
    files = [{"key": "x/data/one.parquet", "size": 1, "MD5checksum": hashlib.md5(data.read_bytes()).hexdigest()}]
    path.write_text(json.dumps({**record, "fileSchema": schema, "files": files, "creationTimestamp": "1790812800000"}))
    return path


def test_an_inventory_in_parquet(lading, tmp_path) -> None:
    when, etag = datetime(2026, 10, 1), hashlib.md5(b"x").hexdigest()
    path = write_parquet(
        tmp_path,
        [
            ("arch", "data/z", "v3", True, False, 1, when, etag),
            ("arch", "data/z", "v2", False, False, 2, when, etag),
            ("arch", "data/gone", "v2", True, True, None, when, None),
            ("arch", "data/a%2B+ü", "v1", True, False, 1, when, etag),  # keys are plain here
        ],
    )
    flags = [path, "--bucket", "s3://arch/data", "--accept", "etag"]
    assert "before 2027" in lading("import", *flags, "--since", "2027-01-01")
    assert not (tmp_path / "manifest.jsonl.zst").exists()
    lading("import", *flags, "--since", "2026-01-01")
    rows = list(read_manifest(tmp_path / "manifest.jsonl.zst").rows())
    assert [(row.path, row.version_id, row.uploaded_at) for row in rows] == [
        ("a%2B+ü", "v1", "2026-10-01T00:00:00+00:00"),
        ("z", "v3", "2026-10-01T00:00:00+00:00"),
    ]
    # The same again: the manifest stays, so the mirror has nothing to read.
    before = (tmp_path / "manifest.jsonl.zst").stat().st_ino
    assert "nothing changed" in lading("import", *flags)
    assert (tmp_path / "manifest.jsonl.zst").stat().st_ino == before
    data = tmp_path / "inventory" / "data" / "one.parquet"
    data.write_bytes(b"PAR1 no")
    record = json.loads(path.read_text())
    record["files"][0]["MD5checksum"] = hashlib.md5(data.read_bytes()).hexdigest()
    path.write_text(json.dumps(record))
    assert "not a row of this inventory" in lading("import", *flags, code=4)


def test_a_git_repository_with_checksums_beside_it(s3, lading, tmp_path, bucket) -> None:
    files = {"a.dat": b"one", "d/b.dat": b"two", "d/c.dat": b"three", "e.bin": b"large", "f.bin": b"annexed", "x": b"?"}
    for path, data in files.items():
        (s3.directory / bucket / "ds" / path).parent.mkdir(parents=True, exist_ok=True)
        (s3.directory / bucket / "ds" / path).write_bytes(data)
    where = tmp_path / "repo"
    where.mkdir()
    git("init", "-q", cwd=where)
    assert "has no commit" in lading("import", where, "--bucket", f"s3://{bucket}/ds", code=2)
    (where / "d").mkdir()
    (where / "SHA256SUMS").write_text(f"{hashlib.sha256(b'one').hexdigest()}  ./a.dat\n")
    (where / "d" / "md5sums.txt").write_text(
        f"{hashlib.md5(b'two').hexdigest()} *b.dat\nMD5 (c.dat) = {hashlib.md5(b'three').hexdigest()}\n# note\n"
    )
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{hashlib.sha256(b'large').hexdigest()}\nsize 5\n"
    (where / "e.bin").write_text(pointer)
    key = f"SHA256E-s9--{hashlib.sha256(b'annexed').hexdigest()}.bin"
    (where / "f.bin").symlink_to(f".git/annex/objects/aa/bb/{key}/{key}")
    git("add", "-A", cwd=where)
    git("commit", "-qm", "x", cwd=where)
    flags = [where, "--bucket", f"s3://{bucket}/ds", "--endpoint-url", s3.endpoint]
    said = lading("import", *flags, code=3)
    assert "f.bin: the repository says 9 bytes, the bucket 7" in said
    assert "x: all that is known of its content" in said
    rows = {row.path: row for row in read_manifest(tmp_path / "manifest.jsonl.zst").rows()}
    assert {path: row.level for path, row in rows.items()} == {
        "a.dat": "sha256 by the archive",
        "d/b.dat": "md5 by the archive",
        "d/c.dat": "md5 by the archive",
        "e.bin": "sha256 by the archive",
    }
    assert rows["e.bin"].sha256 == hashlib.sha256(b"large").hexdigest()
    assert "say by --bucket" in lading("import", where, code=2)


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ("regex=derivatives/[^/]+|sub-[^/]+", {"derivatives/x", "sub-1", "sub-2"}),
        ("regex=(.*?)/ses-", {"sub-1"}),
        ("regex=nothing", set()),
        ("regex=su", set()),  # no whole component
    ],
)
def test_datasets_by_a_pattern(rule: str, wanted: set[str]) -> None:
    splitter = Splitter(rule, frozenset())
    paths = ["sub-1/ses-1/a", "sub-2/b", "derivatives/x/y/c", "README"]
    assert {splitter.place(path).dataset for path in paths} - {""} == wanted


def test_what_changed_in_a_bucket_since_a_time(lading, tmp_path, monkeypatch) -> None:
    """A listing is read whole: what was deleted is gone, what was taken back is there, the rest stays as it was."""
    need_program("git-annex")
    for name, value in moto.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    with moto.serve() as server:
        server.make_bucket("data", versioned=True)
        client = server.client()
        fill(client, "data", {f"s/{name}": name.encode() for name in "abcdefgh"})
        client.delete_object(Bucket="data", Key="s/h")
        source = ["s3://data/s/", "--accept", "etag", "--endpoint-url", server.endpoint]
        said = lading("import", *source, "--since", "2020-01-01T00:00:00Z")
        assert "since 2020-01-01T00:00:00+00:00: 7 new, 0 changed, 0 removed" in said
        lading("mirror", "--store", "m", "update")
        before = read_manifest(tmp_path / "manifest.jsonl.zst")
        held = {row.path: row for row in before.rows()}
        assert before.end.complete
        time.sleep(1.1)
        since = datetime.now(UTC).isoformat(timespec="seconds")
        assert "stays: nothing changed" in lading("import", *source, "--since", since)
        client.put_object(Bucket="data", Key="s/b", Body=b"other")
        client.put_object(Bucket="data", Key="s/new", Body=b"new")
        client.delete_object(Bucket="data", Key="s/c")
        marker = next(
            item for item in client.list_object_versions(Bucket="data")["DeleteMarkers"] if item["Key"] == "s/h"
        )
        client.delete_object(Bucket="data", Key="s/h", VersionId=marker["VersionId"])
        said = lading("import", *source, "--since", since)
        assert f"since {since}: 2 new, 1 changed (1 of them older: taken back), 1 removed" in said
        now = read_manifest(tmp_path / "manifest.jsonl.zst")
        rows = {row.path: row for row in now.rows()}
        assert sorted(rows) == ["a", "b", "d", "e", "f", "g", "h", "new"]
        assert now.end.complete
        assert all(rows[path] == held[path] for path in "adefg")
        assert rows["b"] != held["b"]
        said = lading("mirror", "--store", "m", "update")
        assert "2 added, 1 changed, 1 removed" in said
        assert "is of s3://data/s/, not of s3://data/" in lading(
            "import", "s3://data/", *source[1:], "--since", since, code=4
        )
        assert "is not a time" in lading("import", *source, "--since", "yesterday", code=2)
