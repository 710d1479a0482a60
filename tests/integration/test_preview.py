"""Pictures beside the outputs: what they show, how they are recorded, and where they are seen."""

import base64
import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tifffile
from PIL import Image
from starlette.testclient import TestClient

from lading.cli import compress as command
from lading.cli import find, prove, report
from lading.compress import launcher
from lading.compress.destination import DirectoryDestination
from lading.compress.preview import pictures
from lading.core.errors import LadingError
from lading.portal.app import build
from lading.portal.security import PortalAccess
from lading.portal.service import PortalService
from lading.portal.store import SUCCESS, JobStore, NewJob
from lading.testing.ephys_data import make_samples, write_openephys
from tests.images import light_sheet
from tests.integration.test_view import PublicBucket

AP = "Neuropix-PXI-100.ProbeA-AP"


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))


def compress(source: Path, out: Path, kind: str, *flags: str) -> dict[str, Any]:
    assert command.main([str(source), str(out), "--kind", kind, "--workers", "1", *flags]) == 0
    return dict(json.loads((out / "compress.json").read_text()))


def pixels(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as opened:
        opened.verify()
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB")).astype(int)


def listed(told: dict[str, Any], out: Path, path: str) -> None:
    """A picture is an output like any other: named with the digest of its bytes."""
    (row,) = [row for row in told["outputs"] if row["path"] == path]
    assert row["sha256"] == hashlib.sha256((out / path).read_bytes()).hexdigest()


def recording(top: Path) -> Path:
    samples = make_samples(2000, 40, 3, units=0)
    samples[1100:1130, 30] += 900  # what a person should see: one channel, once
    write_openephys(top, {AP: samples, "NI-DAQmx-103.PXI-6133": make_samples(2000, 8, 1)})
    return top


def test_a_recording(tmp_path: Path) -> None:
    told = compress(recording(tmp_path / "in"), tmp_path / "out", "ephys")
    streams = {row["name"]: row.get("preview") for row in told["facts"]["streams"]}
    shown = {name: path for name, path in streams.items() if path}
    # A sync line has no noise to look at.
    assert {name.endswith("SYNC") for name in streams.keys() - shown.keys()} == {True}
    assert all(path == f"ecephys_preview/{name}.png" for name, path in shown.items())
    for path in shown.values():
        listed(told, tmp_path / "out", path)
    (picture,) = [path for name, path in shown.items() if name.endswith("-AP")]
    found = pixels(tmp_path / "out" / picture)
    # The raster: 560 × 400 from 70, 58; its reddest spot is that of the event (frame 1115 of 2000, channel 30 of 40).
    raster = found[58:458, 70:630]
    red = raster[..., 0] - raster[..., 2]
    boxes = red.reshape(40, 10, 112, 5).mean(axis=(1, 3))
    row, column = np.unravel_index(boxes.argmax(), boxes.shape)
    assert boxes.max() > 100
    assert row == 8  # by depth, the tip below: two contacts share one, and 30 is in the 16th pair of 20
    assert abs((column + 0.5) / 112 - 1115 / 2000) < 0.01
    # The spectrum's curve is there, in its own blue.
    assert (np.abs(found[58:458, 730:1020] - (24, 92, 168)).sum(axis=2) < 60).sum() > 200
    # The same again is the same picture.
    again = compress(tmp_path / "in", tmp_path / "again", "ephys")
    assert [row for row in again["outputs"] if row["path"] == picture] == [
        row for row in told["outputs"] if row["path"] == picture
    ]


def test_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    stack = np.full((12, 60, 90), 100, "uint16")
    stack[5, 10:20, 60:80] = 4000
    tifffile.imwrite(tmp_path / "in" / "tile.tif", stack)
    colour = np.zeros((40, 50, 3), "uint8")
    colour[:20, :25, 0], colour[20:, 25:, 2] = 255, 255
    tifffile.imwrite(tmp_path / "in" / "colour.tif", colour, photometric="rgb")
    told = compress(tmp_path / "in", tmp_path / "out", "imaging")
    for row in told["facts"]["images"]:
        assert row["preview"] == f"imaging_preview/{row['name']}.png"
        listed(told, tmp_path / "out", row["preview"])
    found = pixels(tmp_path / "out" / "imaging_preview/tile.png")
    picture = found[12 : 12 + round(512 * 60 / 90), 12:524, 0]
    bright = np.argwhere(picture > 200)
    # Brightest where one plane of twelve is, whatever lies above and below it.
    assert np.allclose(bright.min(axis=0), (10 / 60 * picture.shape[0], 60 / 90 * 512), atol=8)
    assert np.allclose(bright.max(axis=0), (20 / 60 * picture.shape[0], 80 / 90 * 512), atol=8)
    found = pixels(tmp_path / "out" / "imaging_preview/colour.png")
    assert tuple(found[60, 60]) == (255, 0, 0)
    assert tuple(found[300, 460]) == (0, 0, 255)
    # Viewers take the colours from the metadata.
    about = json.loads((tmp_path / "out" / "colour.ome.zarr/zarr.json").read_text())["attributes"]["ome"]["omero"]
    assert [one["color"] for one in about["channels"]] == ["FF0000", "00FF00", "0000FF"]
    assert prove.main(["prove", str(tmp_path / "out")]) == 0


def test_a_source_with_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "in/imaging_preview").mkdir(parents=True)
    tifffile.imwrite(tmp_path / "in" / "a.tif", light_sheet((3, 20, 30)))
    (tmp_path / "in/imaging_preview/a.png").write_text("its own")
    told = compress(tmp_path / "in", tmp_path / "out", "imaging")
    assert told["renamed"] == {"imaging_preview": "source.imaging_preview"}
    assert (tmp_path / "out/source.imaging_preview/a.png").read_text() == "its own"
    assert pixels(tmp_path / "out/imaging_preview/a.png").ndim == 3


@pytest.mark.parametrize("kind", ["ephys", "imaging"])
def test_no_picture_is_no_failure(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unwanted, without its package, or with a package that fails: the data are what they are."""
    if kind == "ephys":
        recording(tmp_path / "in")
    else:
        (tmp_path / "in").mkdir()
        tifffile.imwrite(tmp_path / "in" / "a.tif", light_sheet((3, 20, 30)))
    compress(tmp_path / "in", tmp_path / "unwanted", kind, "--no-preview")
    assert not list(tmp_path.rglob("*_preview"))
    assert "no preview" not in capsys.readouterr().err
    monkeypatch.setattr(pictures, "is_there", lambda package: False)
    compress(tmp_path / "in", tmp_path / "without", kind)
    assert not list(tmp_path.rglob("*_preview"))
    assert "no preview: the Python package pillow is not installed" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setattr(launcher, "run_locally", lambda worker, count, stop: worker("w0", 0, stop))
    monkeypatch.setattr(pictures.Sheet, "encode", lambda *_, **__: 1 / 0)
    told = compress(tmp_path / "in", tmp_path / "broken", kind)
    assert "it cannot be drawn (ZeroDivisionError" in json.dumps(told["facts"])
    assert not list(tmp_path.rglob("*_preview"))


def test_a_full_disk_while_a_picture_is_written_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "a.tif", light_sheet((3, 20, 30)))
    kept = DirectoryDestination.write

    def full(place: DirectoryDestination, path: str, blocks: Any) -> None:
        if path.endswith(".png"):
            raise LadingError(f"cannot write {path}: No space left on device")
        kept(place, path, blocks)

    monkeypatch.setattr(DirectoryDestination, "write", full)
    assert command.main([str(tmp_path / "in"), str(tmp_path / "out"), "--kind", "imaging", "--workers", "1"]) == 3
    assert not (tmp_path / "out/compress.json").exists()
    monkeypatch.setattr(DirectoryDestination, "write", kept)
    assert compress(tmp_path / "in", tmp_path / "out", "imaging")["facts"]["images"][0]["preview"]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[tuple[TestClient, str, str]]:
    """A portal with a job that succeeded, whose staging folder is gone, and its public bucket."""
    images, prefix = tmp_path / "in", "SPIM_123456_2024-05-27_16-07-59"
    images.mkdir()
    tifffile.imwrite(images / "a b.tif", light_sheet((5, 20, 30)))
    home = tmp_path / "home"
    place = home / "state" / "lab" / prefix
    place.mkdir(parents=True)
    for part, source, kind in (("SPIM", images, "imaging"), ("ecephys", recording(tmp_path / "rec"), "ephys")):
        compress(source, tmp_path / "public" / part, kind, "--state", str(place / "compress" / part))
    PublicBucket.top, PublicBucket.cors, PublicBucket.ranges = tmp_path / "public", True, True
    server = ThreadingHTTPServer(("127.0.0.1", 0), PublicBucket)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    store = JobStore(home / "jobs.sqlite")
    store.add([NewJob("0123456789abcdef", prefix, "lab", "default", None, "{}")])
    store.start("0123456789abcdef")
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    PublicBucket.prefix = f"/lab/{prefix}/"
    service = PortalService(store, home, "", "lab", endpoint)
    application = build(service, PortalAccess("correct-horse-battery-staple"))
    with TestClient(application, base_url="http://127.0.0.1") as client:
        client.headers["Authorization"] = "Bearer correct-horse-battery-staple"
        yield client, "0123456789abcdef", f"{endpoint}/lab/{prefix}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_page_of_a_session(session: tuple[TestClient, str, str], tmp_path: Path) -> None:
    client, job, address = session
    where = f"/job_tasks_table?dag_run_id={job}"
    page = client.get(where).text
    shown = [base64.b64decode(one) for one in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    kept = {path.read_bytes() for path in (tmp_path / "public").rglob("*_preview/*.png")}
    assert len(shown) == len(kept) >= 3
    assert set(shown) == kept
    assert all(Image.open(io.BytesIO(one)).format == "PNG" for one in shown)
    assert "neuroglancer" not in page, "nothing is in a bucket yet"
    refused = client.post("/check_viewers", data={"dag_run_id": job}, headers={"accept": "text/html"})
    assert refused.status_code == 406
    JobStore(tmp_path / "home" / "jobs.sqlite").end(job, SUCCESS, "")
    page = client.get(where).text
    assert f"vizarr/?source={address}/SPIM/a_b.ome.zarr" in page
    assert "Check that a browser may read them" in page
    assert "Checked" not in page
    assert "napari --plugin napari-ome-zarr" in page
    page = check(client, job)
    assert "A browser may read the images." in page
    PublicBucket.cors = False
    page = check(client, job)
    assert "does not allow pages of https://neuroglancer-demo.appspot.com" in page.replace("<wbr>", "")
    assert "put-bucket-cors" in page
    # What is known stays until somebody asks again.
    PublicBucket.cors = True
    assert "does not allow pages" in client.get(where).text.replace("<wbr>", "")
    assert "A browser may read the images." in check(client, job)


def check(client: TestClient, job: str) -> str:
    answer: httpx.Response = client.post("/check_viewers", data={"dag_run_id": job})
    assert answer.status_code == 200
    return answer.text


def test_a_damaged_state_leaves_the_page(session: tuple[TestClient, str, str], tmp_path: Path) -> None:
    """Whatever lies there, the page is shown: a report cut short, a picture that is none, a link to elsewhere."""
    client, job, _ = session
    where = f"/job_tasks_table?dag_run_id={job}"
    top = next((tmp_path / "home").rglob("compress"))
    pngs = sorted(top.rglob("previews/*.png"))
    pngs[0].write_bytes(b"<script>alert(1)</script>")
    pngs[1].unlink()
    pngs[1].symlink_to("/etc/passwd")
    page = client.get(where)
    assert page.status_code == 200
    assert page.text.count("data:image/png") == len(pngs) - 2
    assert "alert(1)" not in page.text
    written = top / "SPIM" / "compress.json"
    value = json.loads(written.read_text())
    value["facts"]["images"] = [{"path": "../../x", "name": "<b>", "preview": "../../../etc/passwd"}, 3, None]
    written.write_text(json.dumps(value))
    assert "<b>" not in client.get(where).text.partition("Outputs")[2]
    written.write_text(written.read_text()[:200])
    assert client.get(where).status_code == 200


def test_the_page_of_a_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report shows the sessions of a release that were compressed, and leads to their viewers."""
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in" / "tile 1.tif", light_sheet((3, 20, 30)))
    compress(tmp_path / "in", tmp_path / "lab" / "session" / "SPIM", "imaging", "--state", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    assert find.main([str(tmp_path / "lab"), "-o", "find.json"]) == 0
    assert report.main(["report", "--index", "https://data.example.org/x", "--root", str(tmp_path)]) == 0
    page = (tmp_path / "report/index.html").read_text()
    (shown,) = re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    (made,) = (tmp_path / "lab").rglob("imaging_preview/*.png")
    assert base64.b64decode(shown) == made.read_bytes()
    assert "vizarr/?source=https://data.example.org/x/lab/session/SPIM/tile_1.ome.zarr" in page
    # A release whose files are not here any more has a page, too.
    (tmp_path / "lab").rename(tmp_path / "gone")
    assert report.main(["report"]) == 0
    assert "Compressed outputs" not in (tmp_path / "report/index.html").read_text()
