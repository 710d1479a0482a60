"""A manifest is named by a path, an s3:// or an https address; it is fetched once and believed by its end record."""

import functools
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lading.core.errors import LadingError, UsageError
from lading.objectstore import web
from lading.objectstore.endpoint import check_endpoint
from lading.testing.s3_server import Server, serve
from lading.verification.manifest_address import beside, fetch, fetch_manifest, local_name
from tests.buckets import Bucket
from tests.servers import altered

Handler = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def web_server(answer: Handler) -> Iterator[str]:
    """Answer each GET and HEAD by a function."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET  # noqa: N815

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def plain_web(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve files by GET and HEAD as a web server does: no listing, no S3."""
    asked: list[str] = []

    class Files(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            asked.append(f"{self.command} {self.path}")

        def list_directory(self, path: Any) -> None:
            self.send_error(404, "no listing")

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Files, directory=str(directory))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


@pytest.fixture
def published(tmp_path: Path, s3: Server, bucket: str) -> Bucket:
    """A bucket that holds its own manifest; no file of it is here."""
    s3.make_bucket(bucket)
    made = Bucket(tmp_path / "here", s3, bucket)
    made.directory.mkdir()
    made.fill(20)
    made.path("about").mkdir()
    made.manifest.rename(made.path("about/manifest.jsonl.zst"))
    return made


def test_every_reader_takes_addresses(published: Bucket, make: Any) -> None:
    where = f"s3://{published.name}/about/manifest.jsonl.zst"
    at = ("--endpoint-url", published.server.endpoint)
    with plain_web(published.server.directory) as (base, asked):
        by_web = f"{base}/{published.name}/about/manifest.jsonl.zst"
        published.run("verify", "--manifest", by_web, *at)
        published.run("scrub", "--manifest", by_web, *at)
        published.run("restore", "--manifest", where, "--to", "back", *at)
        published.run("export", "sha256sums", "--manifest", by_web, "-o", "sums", *at)
        done = json.loads(published.run("diff", where, by_web, "--json", *at).stdout)
        assert (done["same"], sum(done["objects"].values())) == (20, 0)
        assert asked == [f"GET /{published.name}/about/manifest.jsonl.zst"] * 4, "fetched once"
    assert len(list((published.directory / "back").rglob("0*"))) == 20
    assert {path.name for path in published.directory.iterdir()} == {"back", "sums", "manifest.scrub.jsonl"}
    done = make("verify", cwd=published.directory, manifest=where, endpoint=published.server.endpoint)
    assert done.returncode == 0, done.stderr


def test_a_plain_web_server_is_asked_by_head(published: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither account nor listing: as behind a content network."""
    for name in list(os.environ):
        if name.startswith("AWS_") and name != "AWS_EC2_METADATA_DISABLED":
            monkeypatch.delenv(name)
    published.path(published.rows[3].key).unlink()
    published.path(published.rows[4].key).write_bytes(b"short")
    with plain_web(published.server.directory) as (base, _):
        address = f"{base}/{published.name}/about/manifest.jsonl.zst"
        done = published.run("verify", "--manifest", address, "--endpoint-url", base, code=4)
        assert "each object was requested by HEAD; extra objects were not looked for" in done.stdout
        assert "18 objects have no ETag to compare, so only sizes were compared" in done.stdout
        assert f"missing: 1: {published.rows[3].key}" in done.stderr
        assert f"different: 1: {published.rows[4].key}" in done.stderr
        deep = published.run("verify", "--manifest", address, "--endpoint-url", base, "--deep", "--json", code=4)
        assert json.loads(deep.stdout)["read"] == 18
        back = published.run("restore", "--manifest", address, "--endpoint-url", base, "--to", "back", code=3)
        assert "18 files" in back.stdout


def test_who_asks_pays(published: Bucket, s3: Server) -> None:
    refused = b"<Error><Code>AccessDenied</Code><Message>pay</Message></Error>"

    def demand(request: altered.Request) -> altered.Answer | None:
        paid = request.headers.get("x-amz-request-payer") == "requester"
        return None if paid else (403, [("Content-Type", "application/xml")], refused)

    with altered.serve(s3, instead=demand) as proxy:
        where = f"s3://{published.name}/about/manifest.jsonl.zst"
        words = ("--manifest", where, "--endpoint-url", proxy.endpoint)
        published.run("verify", *words, code=1)
        published.run("verify", *words, "--request-payer", "--deep")
        published.run("restore", *words, "--request-payer", "--to", "back")
        published.run("scrub", *words, "--request-payer")
    said = published.run("verify", *words, "--request-payer", "--no-sign-request", code=2).stderr
    assert "--request-payer needs credentials" in said


def test_what_is_no_manifest_is_refused(published: Bucket, s3: Server) -> None:
    place = published.path("about/manifest.jsonl.zst")
    whole = place.read_bytes()
    where = f"s3://{published.name}/about/manifest.jsonl.zst"
    for content, code, word in ((whole[:-9], 4, "is truncated"), (b"{}", 4, "is damaged"), (b"", 4, "is truncated")):
        place.write_bytes(content)
        said = published.run("verify", "--manifest", where, "--endpoint-url", s3.endpoint, code=None)
        assert (said.returncode, where in said.stderr, "/proc" in said.stderr) == (code, True, False), said.stderr
        assert word in said.stderr
    place.unlink()
    said = published.run("verify", "--manifest", where, "--endpoint-url", s3.endpoint, code=2)
    assert f"{where} is not there" in said.stderr
    for bad in ("s3://bucket", "s3://", "https://", "http://example.org/m.zst", "https://user:word@example.org/m.zst"):
        with pytest.raises(UsageError) as raised:
            fetch_manifest(bad)
        assert "word" not in str(raised.value)


def test_addresses_that_lead_elsewhere_or_fail_are_refused() -> None:
    def away(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "http://example.org/m")
        handler.end_headers()

    with web_server(away) as base, pytest.raises(UsageError, match="plain http to another machine"):
        fetch(f"{base}/m")

    def none(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_error(404)

    with web_server(none) as base, pytest.raises(UsageError, match="/m is not there") as raised:
        fetch(f"{base}/m?X-Amz-Signature=abc")
    assert "abc" not in str(raised.value)


def test_a_download_goes_on_where_it_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    body = os.urandom(5_000_000)
    asked: list[str | None] = []

    def break_off(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(handler.headers.get("Range"))
        first = int((asked[-1] or "bytes=0-")[6:-1])
        handler.send_response(206 if first else 200)
        handler.send_header("Content-Length", str(len(body) - first))
        if first:
            handler.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        handler.end_headers()
        handler.wfile.write(body[first : first + 2_000_000])
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_RDWR)

    monkeypatch.setattr(web.time, "sleep", lambda _: None)
    with web_server(break_off) as base, fetch(f"{base}/m") as found:
        assert found.read() == body
    assert len(asked) == 3

    def never(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_error(503)

    with web_server(never) as base, pytest.raises(LadingError, match="the server says 503"):
        fetch(f"{base}/m")


def test_addresses_are_written_as_a_browser_would_write_them() -> None:
    """Spaces, other letters and escapes come through; a length that is no number is no length."""
    asked: list[str] = []

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        handler.send_response(200)
        handler.send_header("Content-Length", "many")
        handler.end_headers()
        handler.wfile.write(b"whole")

    with web_server(answer) as base:
        for name in ("a b", "a%20b", "é", "a\x1b[2J"):
            with fetch(f"{base}/{name}?x=1 2&y=%2F") as found:
                assert found.read() == b"whole"
    assert [path.partition("?")[0] for path in asked] == ["/a%20b", "/a%20b", "/%C3%A9", "/a%1B%5B2J"]
    assert {path.partition("?")[2] for path in asked} == {"x=1%202&y=%2F"}


@pytest.mark.parametrize("host", ["exa..mple", "[::1", "h:port", "h:99999", "", "e" * 64 + ".org"])
def test_what_no_server_can_be_called_is_refused_at_once(host: str) -> None:
    with pytest.raises(UsageError, match="is not an address"):
        fetch(f"https://{host}/m")
    with pytest.raises(UsageError, match="is not an endpoint"):
        check_endpoint(f"https://{host}")


def test_a_circle_of_redirects_and_a_way_to_a_file_are_named() -> None:
    def circle(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/m" if handler.path == "/m" else "file:///etc/passwd")
        handler.end_headers()

    with web_server(circle) as base:
        for name in ("m", "f"):
            with pytest.raises(UsageError, match=r"redirects in a circle|not an address"):
                fetch(f"{base}/{name}")


def test_names_of_what_belongs_to_a_manifest() -> None:
    assert str(local_name("https://x.org/a/m.zst?sig=1")) == "m.zst"
    assert str(local_name("s3://b/_lading/")) == "manifest.jsonl.zst"
    assert beside("https://x.org/m?s=1", ".sig") == "https://x.org/m.sig?s=1"
    assert beside("dir/m", ".sig") == "dir/m.sig"


@pytest.mark.long
def test_a_mirror_of_an_address(tmp_path: Path, bucket: str) -> None:
    """Without an account: manifest and objects are public."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_DEFAULT_REGION": "us-east-1"}
    allow = ["git", "config", "--global", "annex.security.allowed-ip-addresses", "all"]
    subprocess.run(allow, check=True)
    with serve(tmp_path / "s3", anonymous=True) as public:
        public.make_bucket(bucket)
        made = Bucket(tmp_path / "here", public, bucket)
        made.directory.mkdir()
        made.fill(6)
        made.manifest.rename(made.path("m.zst"))
        with plain_web(public.directory) as (base, asked):
            words = ["mirror", "--store", "mirror", "-m", f"{base}/{bucket}/m.zst", "update"]
            first = subprocess.run(
                [sys.executable, "-m", "lading", *words],
                cwd=made.directory, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert first.returncode == 0, first.stderr
            again = subprocess.run(
                [sys.executable, "-m", "lading", *words],
                cwd=made.directory, env=environment, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert (again.returncode, "nothing changed" in again.stdout) == (0, True), again.stdout + again.stderr
            assert len(asked) == 2
        clone = f"ria+file://{made.directory}/mirror#~super"
        done = subprocess.run(
            ["datalad", "clone", clone, "clone"], cwd=made.directory, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        done = subprocess.run(
            ["datalad", "get", "-r", "."], cwd=made.directory / "clone", env=environment, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        files = [path for path in (made.directory / "clone").rglob("0*") if path.is_file() and ".git" not in path.parts]
        assert len(files) == 6
