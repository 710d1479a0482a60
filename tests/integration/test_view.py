"""``lading view``: links for viewers, and whether a browser may read what they show."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote

import numpy as np
import pytest
import tifffile

from lading.cli import compress as command
from lading.cli import view
from lading.compress import launcher, viewers
from lading.compress.rebuild import stored_compression
from lading.core.errors import UsageError
from tests.images import light_sheet


class PublicBucket(BaseHTTPRequestHandler):
    """A bucket as browsers see it."""

    top: ClassVar[Path]
    prefix: ClassVar[str] = "/public/lab/s/"
    cors: ClassVar[bool] = True
    ranges: ClassVar[bool] = True

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        if self.cors:
            self.send_header("Access-Control-Allow-Origin", "*")
            self.send_header("Access-Control-Allow-Headers", "range")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_OPTIONS(self) -> None:
        self.answer(200 if self.cors else 403)

    def do_GET(self) -> None:
        path = self.top / unquote(self.path).removeprefix(self.prefix)
        if not path.is_file():
            self.answer(404)
            return
        data = path.read_bytes()
        if self.ranges and "Range" in self.headers:
            self.answer(206, data[:4], Content_Range=f"bytes 0-3/{len(data)}")
        else:
            self.answer(200, data, Content_Type="application/octet-stream")

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def public(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A session of images, and its public address."""
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a b.tif", light_sheet((5, 20, 30)))
    out = tmp_path / "s" / "SPIM"
    assert command.main([str(tmp_path / "in"), str(out), "--kind", "imaging", "--workers", "1", "--levels", "1"]) == 0
    # What the command reads by S3 is read here where it lies; what a browser reads comes by http.
    local = stored_compression.DirectoryDestination
    monkeypatch.setattr(
        stored_compression,
        "open_bucket",
        lambda url, _: local(tmp_path / url.removeprefix("s3://public/lab/"), stored_compression.new_working_name()),
    )
    PublicBucket.top, PublicBucket.cors, PublicBucket.ranges = tmp_path / "s", True, True
    PublicBucket.prefix = "/public/lab/s/"
    server = ThreadingHTTPServer(("127.0.0.1", 0), PublicBucket)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def viewed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = view.main(["s3://public/lab/s", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_links_and_what_a_browser_may_read(public: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = viewed(capsys, "--endpoint-url", public)
    (image,) = found["images"]
    assert (code, image["errors"], image["path"]) == (0, [], "SPIM/a_b.ome.zarr")
    targets = {link["viewer"]: link["target"] for link in image["links"]}
    address = f"{public}/public/lab/s/{image['path']}"
    state = json.loads(unquote(targets["neuroglancer"].partition("#!")[2]))
    assert state["layers"][0]["source"] == f"zarr://{address}"
    assert targets["vizarr"].endswith(f"?source={address}")
    assert targets["napari"].endswith(address)
    PublicBucket.cors = False
    code, found = viewed(capsys, "--endpoint-url", public)
    assert code == 4
    said = "\n".join(found["images"][0]["errors"])
    assert "does not allow pages of https://neuroglancer-demo.appspot.com to read it (CORS)" in said
    assert "does not allow the header Range" in said
    PublicBucket.cors, PublicBucket.ranges = True, False
    (error,) = viewed(capsys, "--endpoint-url", public)[1]["images"][0]["errors"]
    assert "answers a Range with 200" in error
    assert view.main(["s3://public/lab/s", "--endpoint-url", public]) == 4
    assert "put-bucket-cors" in capsys.readouterr().err
    # Another public name, where nobody is.
    code, found = viewed(capsys, "--index", f"{public}/elsewhere", "--endpoint-url", public)
    assert code == 4
    assert "the server answers 404 without credentials" in found["images"][0]["errors"][0]
    assert viewed(capsys, "--no-check", "--index", "https://data.example.org/x")[0] == 0


def test_addresses() -> None:
    assert viewers.public_address("b", "a b/c", None, None) == "https://b.s3.amazonaws.com/a%20b/c"
    assert viewers.public_address("b.c", "x", None, None) == "https://s3.amazonaws.com/b.c/x"
    assert np.all([link.target for link in viewers.links("https://x/y", "n")])


def test_only_buckets_have_links(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not in a bucket"):
        view.main([str(tmp_path)])
