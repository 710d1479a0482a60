"""What only the crt engine does: checksums that the server compares, and servers that know none."""

import json
import os
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from awscrt import http, io

from lading.objectstore.target import FailureKind, Target
from lading.upload.engines.base import UploadTask, send
from lading.upload.engines.crt import CrtEngine
from lading.upload.engines.crt_worker import choose_host, keep_thread
from tests.conftest import mostly_long
from tests.integration.test_engines import ODD_KEYS, World
from tests.servers import altered
from tests.servers.altered import Answer, Request
from tests.servers.moto import ENVIRONMENT, Moto, serve
from tests.shipping import Site, make_site, write_files

CHECKSUM = "x-amz-checksum-crc64nvme"
MIB = 1 << 20


@pytest.fixture(scope="module")
def moto_server() -> Iterator[Moto]:
    with serve() as server:
        yield server


@pytest.fixture
def moto(moto_server: Moto, monkeypatch: pytest.MonkeyPatch) -> Moto:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return moto_server


@pytest.fixture
def site(tmp_path: Path, moto: Moto, bucket: str) -> Site:
    site = make_site(tmp_path, moto, bucket)  # type: ignore[arg-type]
    write_files(site.release, {b"d/%02d" % n: 3000 + n for n in range(40)} | {b"empty": 0, b"big": 51 * MIB})
    site.plan("--min-batch-size", "1G", "--max-batch-size", "1T")
    return site


def sent_by_crt(requests: list[Request]) -> list[Request]:
    return [one for one in requests if "CRT" in one.headers.get("user-agent", "")]


def test_each_object_and_part_has_a_checksum_and_the_planned_size(site: Site, moto: Moto) -> None:
    with altered.serve(moto) as proxy:
        site.endpoint = proxy.endpoint
        done = site.upload("--engine", "crt")
        assert (done.returncode, done.stderr) == (0, "")
        assert site.runs()[-1]["retries"] == 0
        requests = sent_by_crt(proxy.requests)
        bodies = [one for one in requests if one.method == "PUT"]
        assert len(bodies) == 41 + 2
        assert all(one.headers[CHECKSUM] for one in bodies)
        assert sorted(len(one.body) for one in bodies if "partNumber" in one.path) == [MIB, 50 * MIB]
        done = site.verify()
        assert done.returncode == 0, done.stderr
        listed = site.listing()
    assert len(listed) == 42
    assert listed["dr1/big"][1].endswith("-2")


@pytest.mark.parametrize("keep", [True, False])
def test_a_thread_of_the_client_keeps_what_the_interpreter_knows_of_it(keep: bool) -> None:
    """Else each call from there makes it anew, which was a quarter of the CPU time of a run."""
    known = threading.local()
    found: list[bool] = []
    group = io.EventLoopGroup(1)
    bootstrap = io.ClientBootstrap(group, io.DefaultHostResolver(group))

    def note(done: Any) -> None:
        if keep:
            keep_thread()
        found.append(hasattr(known, "seen"))
        known.seen = True
        told.set()

    for _ in range(3):
        told = threading.Event()
        # Nothing listens there: the client's own thread says so.
        http.HttpClientConnection.new("127.0.0.1", 1, bootstrap, io.SocketOptions()).add_done_callback(note)
        assert told.wait(30)
    assert found == [False, keep, keep]


@pytest.mark.parametrize(
    ("status", "code"), mostly_long([(501, "NotImplemented"), (400, "InvalidArgument")], (501, "NotImplemented"))
)
def test_a_server_that_refuses_checksums_is_found_out_once(site: Site, moto: Moto, status: int, code: str) -> None:
    refused: list[Request] = []

    def refuse(request: Request) -> Answer | None:
        if not sent_by_crt([request]) or not any(
            name.startswith(("x-amz-checksum", "x-amz-sdk-checksum")) for name in request.headers
        ):
            return None
        refused.append(request)
        body = f"<Error><Code>{code}</Code><Message>A header is not known here</Message></Error>"
        return status, [("Content-Type", "application/xml")], body.encode()

    with altered.serve(moto, instead=refuse) as proxy:
        site.endpoint = proxy.endpoint
        done = site.upload("--engine", "crt")
        assert (done.returncode, done.stderr) == (0, "")
        assert site.runs()[-1]["retries"] == 0, "by itself, not by the second client"
        assert len([one for one in refused if one.method == "PUT"]) <= 1, "the first object tells for all"
        assert len(refused) <= 2, "and once for those in parts"
        assert len(site.listing()) == 42


def test_names_and_sizes_of_all_kinds_at_once(s3, bucket: str, tmp_path: Path) -> None:
    """The conformance suite in short: odd keys, an empty file, one that is gone and one that grew."""
    world = World(s3, bucket, tmp_path)
    tasks = [world.file(b"%d" % n, name.encode(), key="odd/" + name) for n, name in enumerate(ODD_KEYS)]
    tasks += [world.file(b"latin-\xe9\xff", b"bytes", key="latin-%E9%FF"), world.file(b"empty", b"")]
    bad = [world.file(b"gone", b"1"), world.file(b"grown", b"1")]
    os.unlink(bad[0].path)
    os.truncate(bad[1].path, 2)
    engine = CrtEngine(world.target())
    try:
        outcomes = {one.task.key: one for one in send(engine, [*bad, *tasks])}
    finally:
        engine.close()
    assert {key for key, one in outcomes.items() if not one.ok} == {"gone", "grown"}
    assert outcomes["grown"].message == "it has 2 bytes now, and had 1 a moment ago"
    assert {outcomes[task.key].failure for task in bad} == {FailureKind.OBJECT}
    assert world.keys() == {task.key for task in tasks}
    assert all(world.body("odd/" + name) == name.encode() for name in ODD_KEYS)


@pytest.mark.long
def test_credentials_of_a_program_are_asked_for_again_and_their_token_is_sent(
    site: Site, moto: Moto, tmp_path: Path, tmp_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that gives keys for some minutes: botocore asks it again, since they are about to expire."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    program, calls = tmp_path / "program.py", tmp_path / "calls"
    ends = (datetime.now(UTC) + timedelta(minutes=12)).isoformat()
    keys = {"Version": 1, "AccessKeyId": "test", "SecretAccessKey": "hidden-secret", "Expiration": ends}
    program.write_text(
        f"import json, pathlib\ncalls = pathlib.Path({str(calls)!r})\n"
        "count = len(calls.read_text()) if calls.exists() else 0\ncalls.write_text('x' * (count + 1))\n"
        f"print(json.dumps({keys!r} | {{'SessionToken': f'token-{{count}}'}}))\n"
    )
    (tmp_home / ".aws").mkdir(exist_ok=True)
    (tmp_home / ".aws" / "config").write_text(f"[default]\ncredential_process = {sys.executable} {program}\n")
    with altered.serve(moto) as proxy:
        site.endpoint = proxy.endpoint
        done = site.upload("--engine", "crt")
        assert (done.returncode, done.stderr) == (0, "")
    tokens = {one.headers.get("x-amz-security-token", "") for one in sent_by_crt(proxy.requests)}
    assert len(tokens) > 1, "renewed while it runs"
    assert all(token.startswith("token-") for token in tokens)
    assert "hidden-secret" not in done.stdout + done.stderr


@pytest.mark.long
def test_what_is_there_is_kept_and_no_parts_are_left(moto: Moto, bucket: str, tmp_path: Path) -> None:
    """Created or refused at its end, as the server says; a refused upload in parts is aborted."""
    moto.make_bucket(bucket)
    tasks = []
    for key, size in (("small", 10), ("big", 51 * MIB), ("new", 51 * MIB)):
        path = tmp_path / key
        path.write_bytes(os.urandom(MIB) * (size // MIB) if size > MIB else b"0123456789")
        tasks.append(UploadTask(str(path), key, size, path.stat().st_mtime_ns))
        if key != "new":
            moto.client().put_object(Bucket=bucket, Key=key, Body=b"old")
    engine = CrtEngine(Target(bucket, moto.endpoint, 4, no_overwrite=True))
    try:
        outcomes = {one.task.key: one for one in send(engine, tasks)}
    finally:
        engine.close()
    assert {key: one.failure for key, one in outcomes.items()} == {
        "small": FailureKind.REFUSED, "big": FailureKind.REFUSED, "new": None
    }  # fmt: skip
    assert outcomes["new"].etag
    assert outcomes["new"].etag.endswith("-2")
    assert moto.client().get_object(Bucket=bucket, Key="big")["Body"].read() == b"old"
    assert not moto.client().list_multipart_uploads(Bucket=bucket).get("Uploads")


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"endpoint": "http://127.0.0.1:7480"}, ("127.0.0.1:7480", "/my-bucket/", False)),
        (
            {"endpoint": "https://s3.org/base/", "style": "virtual"},
            ("my-bucket.s3.org", "/base/", True),
        ),
        ({"endpoint": "https://s3.example.org"}, ("s3.example.org", "/my-bucket/", True)),
        ({"region": "eu-west-3"}, ("my-bucket.s3.eu-west-3.amazonaws.com", "/", True)),
        ({"region": None}, ("my-bucket.s3.us-east-1.amazonaws.com", "/", True)),
        ({"region": "cn-north-1", "style": "path"}, ("s3.cn-north-1.amazonaws.com.cn", "/my-bucket/", True)),
        ({"region": "eu-west-3", "bucket": "My.bucket"}, ("s3.eu-west-3.amazonaws.com", "/My.bucket/", True)),
    ],
)
def test_where_requests_go(settings: dict[str, str | None], expected: tuple[str, str, bool]) -> None:
    whole = {"bucket": "my-bucket", "endpoint": None, "region": "us-east-1", "style": None} | settings
    assert choose_host(json.loads(json.dumps(whole))) == expected
