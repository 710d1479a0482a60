"""Copies between two gateways, to Google's and Azure's emulators, and kills on the way to each kind of place.

LADING_KILLS sizes the kills for each kind of place (default 5; the full claim is 30).
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import AzureStore, GCSStore

from lading.testing import ceph_gateway
from lading.testing.ceph_gateway import Gateway
from lading.verification.manifest import read_manifest
from tests.conftest import need
from tests.copying import ODD, PART, Release, read_bucket
from tests.servers import azure, google

pytestmark = [pytest.mark.xdist_group("rgw"), pytest.mark.long]
KILLS = int(os.environ.get("LADING_KILLS", "5"))
SEED = int(os.environ.get("LADING_SEED", "7"))
Contents = dict[str, tuple[int, str]]


@dataclass
class Second:
    """A second place: how it is named, and how an independent client reads it."""

    url: str
    flags: tuple[str, ...]
    read: Callable[[], Contents]
    remove: Callable[[str], Any] = lambda name: None


@pytest.fixture
def release(gateway: Gateway, bucket: str, tmp_path: Path) -> Release:
    gateway.make_bucket(bucket)
    return Release(tmp_path, gateway.client(), gateway.endpoint, bucket)


def read_cloud(store: Any, prefix: str) -> Contents:
    found = {}
    for batch in obstore.list(store, prefix.rstrip("/")):
        for item in batch:
            body = bytes(obstore.get(store, item["path"]).bytes())
            found[item["path"][len(prefix) :]] = (len(body), hashlib.md5(body).hexdigest())
    return found


def read_directory(top: Path) -> Contents:
    files = [path for path in top.rglob("*") if path.is_file()]
    return {
        path.relative_to(top).as_posix(): (path.stat().st_size, hashlib.md5(path.read_bytes()).hexdigest())
        for path in files
    }


@pytest.fixture(scope="module")
def second_gateway() -> Iterator[Gateway]:
    need(ceph_gateway.missing())
    with ceph_gateway.serve(Path(tempfile.mkdtemp(prefix="rg2-"))) as found:
        yield found


@pytest.fixture(scope="module")
def google_server() -> Iterator[google.Google]:
    with google.serve() as found:
        yield found


@pytest.fixture(scope="module")
def azure_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[azure.Azure]:
    need(azure.missing())
    with azure.serve(tmp_path_factory.mktemp("azurite")) as found:
        yield found


@pytest.fixture
def second(request: pytest.FixtureRequest, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Second:
    kind = request.param
    if kind == "directory":
        top = tmp_path / "second"
        return Second(str(top), (), lambda: read_directory(top), lambda name: (top / name).unlink())
    if kind == "server":
        request.getfixturevalue("gateway").make_bucket(f"{bucket}-copy")
        client = request.getfixturevalue("gateway").client()
        return Second(
            f"s3://{bucket}-copy/two",
            (),
            lambda: read_bucket(client, f"{bucket}-copy", "two/"),
            lambda name: client.delete_object(Bucket=f"{bucket}-copy", Key=f"two/{name}"),
        )
    if kind == "gateway":
        other = request.getfixturevalue("second_gateway")
        other.make_bucket(bucket)
        flags = ("--to-endpoint-url", other.endpoint)
        return Second(
            f"s3://{bucket}/two",
            flags,
            lambda: read_bucket(other.client(), bucket, "two/"),
            lambda name: other.client().delete_object(Bucket=bucket, Key=f"two/{name}"),
        )
    if kind == "google":
        server = request.getfixturevalue("google_server")
        server.make_bucket(bucket)
        store = GCSStore(bucket, base_url=server.endpoint, skip_signature=True, client_options={"allow_http": True})
        return Second(f"gs://{bucket}/two", ("--to-endpoint-url", server.endpoint), lambda: read_cloud(store, "two/"))
    server = request.getfixturevalue("azure_server")
    server.make_container(bucket)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    cloud = AzureStore(bucket, endpoint=server.endpoint, client_options={"allow_http": True})
    return Second(
        f"az://{bucket}/two",
        ("--to-endpoint-url", server.endpoint),
        lambda: read_cloud(cloud, "two/"),
        lambda name: obstore.delete(cloud, f"two/{name}"),
    )


KINDS = ["server", "gateway", "directory", "google", "azure"]


@pytest.mark.parametrize("second", KINDS, indirect=True)
def test_both_ends_are_equal(release: Release, second: Second) -> None:
    release.fill(12)
    for name in ODD:
        release.put(name, b"odd " + name.encode())
    release.put("empty", b"")
    release.put("big.bin", release.body("big", 4 * PART + 100), part=PART, Metadata={"run": "7"}, ContentType="a/b")
    release.write()
    found = release.result(second.url, *second.flags, "--name", "second")
    assert (found["copied"], found["verified"]) == (19, 19)
    assert second.read() == release.contents()
    assert release.result(second.url, *second.flags, "--name", "second")["present"] == 19
    done = release.run("verify", "--place", "second", "--deep=all")
    assert "19 of 19 objects are as the manifest says" in done.stdout
    release.run("restore", "--from", "second", "--to", str(release.directory / "back"))
    assert read_directory(release.directory / "back") == release.contents()


@pytest.mark.parametrize("second", KINDS[1:], indirect=True)
def test_bytes_that_are_not_the_recorded_ones_never_appear(release: Release, second: Second) -> None:
    release.fill(3)
    release.put("big.bin", release.body("big", 4 * PART), part=PART)
    release.put("small.bin", b"small")
    release.change("big.bin", sha256="0" * 64)
    release.change("small.bin", sha256="0" * 64)
    release.write()
    done = release.copy(second.url, *second.flags, "--name", "second", code=4)
    assert "not as recorded at the first place: 2: dr1/big.bin (its bytes have another SHA256)" in done.stderr
    assert len(second.read()) == 3


@pytest.mark.parametrize("second", KINDS, indirect=True)
def test_killed_anywhere_it_converges(release: Release, second: Second) -> None:
    """Each kill is at a random instant of a copy that has something left to do; what is there is right at any time."""
    chance = random.Random(SEED)
    release.fill(60, size=20_000)
    release.put("big.bin", release.body("big", 4 * PART + 100), part=PART)
    release.write()
    wanted, words = release.contents(), (second.url, *second.flags, "--name", "second", "--max-workers", "4")
    started = time.monotonic()
    release.run("--version")
    base = time.monotonic() - started
    kills = 0
    for _ in range(4 * KILLS):
        process = subprocess.Popen(
            release.command("copy", "--to", *words), cwd=release.directory,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            process.wait(base + chance.uniform(0.2, 2.0))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        there = {name: what for name, what in second.read().items() if ".lading-" not in name}
        assert there.items() <= wanted.items(), "nothing half, nothing else"
        if kills >= KILLS:
            break
        if len(there) == len(wanted):  # it was done: something new to copy
            for number in range(20):
                name = f"more/{kills}-{number}"
                release.put(name, release.body(name, 20_000))
            release.write()
            wanted = release.contents()
    assert kills == KILLS
    found = release.result(*words)
    assert found["verified"] == len(wanted)
    there = second.read()
    print(f"{kills} kills; {len(wanted)} objects; the last run copied {found['copied']}, found {found['present']}")
    assert there == wanted, "both ends are equal, and no unfinished file is left"
    rows = read_manifest(release.directory / "manifest.second.jsonl.zst").rows()
    assert {row.path for row in rows} == set(wanted)
    assert json.loads((release.directory / "manifest.places.json").read_text())["places"][0]["complete"] is True


@pytest.mark.parametrize("second", ["server", "gateway", "directory", "azure"], indirect=True)
def test_repair_of_50_objects(release: Release, second: Second) -> None:
    """Missing, truncated, flipped and swapped objects come back, one that was withdrawn does not, right ones stay."""
    release.fill(80)
    release.put("big.bin", release.body("big", 2 * PART + 100), part=PART, Metadata={"run": "7"})
    release.write()
    wanted, client, bucket = release.contents(), release.client, release.bucket
    release.run("copy", "--to", second.url, *second.flags, "--name", "second")
    keys = [*(row.key for row in release.rows[1:50]), "dr1/big.bin"]
    kept = client.head_object(Bucket=bucket, Key=release.rows[60].key)["LastModified"]
    for number, key in enumerate(keys):
        body = client.get_object(Bucket=bucket, Key=key)["Body"].read()
        if number % 4 == 0:
            client.delete_object(Bucket=bucket, Key=key)
        else:
            flipped = bytes([body[0] ^ 1]) + body[1:]
            client.put_object(Bucket=bucket, Key=key, Body=(body[:-1], flipped, b"of another")[number % 4 - 1])
    assert release.run("verify", "--place", "origin", code=4).returncode == 4
    time.sleep(1.1)
    found = json.loads(release.run("repair", "--json").stdout)
    assert (found["damaged"], found["repaired"], found["lost"], found["failed"]) == (50, 50, 0, 0)
    assert release.contents() == wanted
    assert client.head_object(Bucket=bucket, Key=release.rows[60].key)["LastModified"] == kept
    assert "81 of 81" in release.run("verify", "--place", "origin", "--deep=all").stdout
    # And the other way round: the second place lost two, of which the first has one no more.
    rows = {row.path: row for row in release.rows}
    lost, gone, *_ = rows
    client.delete_object(Bucket=bucket, Key=rows[lost].key)
    second.remove(lost)
    second.remove(gone)
    done = release.run("repair", "--place", "second", "--from", "origin", code=4)
    assert "repair  1 of 2 objects came back from origin" in done.stdout
    assert f"since the other place has no right object either: 1: {'two/' if '//' in second.url else ''}{lost}" in (
        done.stderr
    )
    assert set(wanted) - set(second.read()) == {lost}
