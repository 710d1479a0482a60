"""One server for listings, engines and the journal: whatever each client would find by itself."""

import json
import time
from pathlib import Path

import botocore.exceptions
import botocore.loaders
import pytest

from lading.core.errors import UsageError
from lading.objectstore.client import ObjectStore
from lading.objectstore.endpoint import resolve_endpoint
from lading.objectstore.s3_requests import _share_loader
from lading.objectstore.target import Target
from lading.testing.s3_server import Server
from lading.upload.engines.child_engine import ChildEngine
from lading.upload.engines.crt import CrtEngine
from lading.upload.engines.obstore import ObstoreEngine
from lading.upload.engines.obstore_worker import open_store
from lading.upload.engines.s5cmd import S5cmdEngine
from tests.shipping import Site, make_site, write_files

CEPH = "https://ceph.example"


def environment_of(pid: int) -> dict[str, str]:
    """Return the variables with which a process was started."""
    for _ in range(500):
        pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
        found = dict(pair.split("=", 1) for pair in pairs if pair)
        if found:
            return found
        time.sleep(0.01)  # in the middle of an exec there is none
    raise AssertionError("the process has no environment")


def s5cmd_environment(directory: Path, target: Target) -> dict[str, str]:
    """Return the environment that s5cmd gets, of a stand-in that only waits."""
    waiting = directory / "waiting"
    waiting.write_text("#!/bin/sh\nexec cat\n")
    waiting.chmod(0o755)
    engine = S5cmdEngine(target)
    engine._binary = str(waiting)
    engine._start()
    try:
        assert engine._child
        return environment_of(engine._child.process.pid)
    finally:
        engine.close()


def child_environment(engine: ChildEngine) -> dict[str, str]:
    engine.load()
    try:
        assert engine._child
        return environment_of(engine._child.pid)
    finally:
        engine.close()


def write_profile(home: Path, text: str, file: str = "config") -> None:
    (home / ".aws").mkdir(exist_ok=True)
    (home / ".aws" / file).write_text(text)


def test_the_flag_then_the_environment_then_the_profile(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_endpoint(None) is None
    assert resolve_endpoint("") is None
    write_profile(tmp_home, "[default]\nregion = us-west-2\nendpoint_url = https://profile.example\n")
    assert resolve_endpoint(None) == "https://profile.example"
    monkeypatch.setenv("AWS_ENDPOINT_URL", CEPH)
    assert resolve_endpoint(None) == CEPH
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://s3.example")
    assert resolve_endpoint(None) == "https://s3.example"
    assert resolve_endpoint("https://flag.example") == "https://flag.example"
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true")
    assert resolve_endpoint(None) is None


def test_the_profile_as_aws_clients_read_it(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = "[profile lab]\nservices = lab\nendpoint_url = https://all.example\n"
    services += "[services lab]\ns3 =\n  endpoint_url = https://s3.lab.example\n"
    write_profile(tmp_home, services)
    assert resolve_endpoint(None) is None, "another profile's"
    monkeypatch.setenv("AWS_PROFILE", "lab")
    assert resolve_endpoint(None) == "https://s3.lab.example"
    write_profile(tmp_home, "[lab]\nendpoint_url = https://keys.example\n", "credentials")
    write_profile(tmp_home, "")
    assert resolve_endpoint(None) == "https://keys.example"


def test_what_was_found_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio.example:9000")
    with pytest.raises(UsageError, match=r"^AWS_ENDPOINT_URL: .*plain http to another machine"):
        resolve_endpoint(None)


def test_the_client_speaks_to_its_target_only(monkeypatch: pytest.MonkeyPatch, tmp_home: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert ObjectStore(Target("b")).requests.client.meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"


def test_engines_are_not_led_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "S3_ENDPOINT_URL")
    for name in names:
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    target = Target("b", CEPH)
    for found in (
        s5cmd_environment(tmp_path, target),
        child_environment(ObstoreEngine(target)),
        child_environment(CrtEngine(target)),
    ):
        assert "HOME" in found
        assert not set(names) & set(found)


def test_engines_sign_for_the_region_of_the_profile(
    tmp_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"):  # a server of other tests may have told them
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "known")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    write_profile(tmp_home, "[default]\nregion = us-west-2\n")
    assert s5cmd_environment(tmp_path, Target("b"))["AWS_REGION"] == "us-west-2"
    assert s5cmd_environment(tmp_path, Target("b", CEPH))["AWS_REGION"] == "us-east-1", "as the listings there"
    assert open_store(ObstoreEngine(Target("b"))._settings()).config["region"] == "us-west-2"
    assert CrtEngine(Target("b"))._settings()["region"] == "us-west-2"
    write_profile(tmp_home, "")
    assert "AWS_REGION" not in s5cmd_environment(tmp_path, Target("b")), "s5cmd then asks AWS where the bucket is"


@pytest.mark.parametrize("engine", ["boto3", "obstore", "s5cmd", pytest.param("crt", marks=pytest.mark.long)])
def test_an_endpoint_of_the_environment_is_journalled(
    tmp_path: Path, s3: Server, bucket: str, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Without the variable, the next run speaks of AWS, about which nothing is known."""
    site: Site = make_site(tmp_path, s3, bucket)
    write_files(site.release, {b"d/%d" % number: 4000 for number in range(6)})
    site.plan()
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    site.endpoint = ""
    done = site.upload("--engine", engine)
    assert done.returncode == 0, done.stderr
    checked = site.verify()
    assert checked.returncode == 0, checked.stderr
    headers = [json.loads(path.read_text().splitlines()[0]) for path in (site.directory / "journal").glob("*.jsonl")]
    assert {header["endpoint"] for header in headers} == {s3.endpoint}
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    for run in (site.upload, site.verify):
        done = run()
        assert done.returncode == 4, done.stdout
        assert f"is for endpoint {s3.endpoint}, this run is for AWS" in done.stderr


def test_nothing_goes_past_the_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go heeds NO_PROXY; credentials of the machine come by http, which the cap's CONNECT does not carry."""
    for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "ceph.example")
    found = s5cmd_environment(tmp_path, Target("b", CEPH, proxy="http://127.0.0.1:9"))
    proxies = {name: value for name, value in found.items() if name.upper().endswith("_PROXY")}
    assert proxies == {"HTTPS_PROXY": "http://127.0.0.1:9"}
    assert s5cmd_environment(tmp_path, Target("b", CEPH))["NO_PROXY"] == "ceph.example", "without a cap all as it is"


def test_crt_keeps_its_memory_unless_the_site_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.delenv(name, raising=False)
    engine = CrtEngine(Target(bucket="b", endpoint="http://127.0.0.1:9"))
    started = child_environment(engine)
    assert int(started["MALLOC_MMAP_THRESHOLD_"]) == 32 << 20
    assert int(started["MALLOC_TRIM_THRESHOLD_"]) == 512 << 20
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    started = child_environment(CrtEngine(Target(bucket="b", endpoint="http://127.0.0.1:9")))
    assert (started["MALLOC_MMAP_THRESHOLD_"], started["MALLOC_TRIM_THRESHOLD_"]) == (str(32 << 20), "131072")


def test_the_reader_of_descriptions_knows_every_service_and_those_of_the_site(tmp_path: Path) -> None:
    (tmp_path / "ours" / "2020-01-01").mkdir(parents=True)
    theirs = botocore.loaders.create_loader(str(tmp_path))
    ours = _share_loader(str(tmp_path))
    assert ours.search_paths == theirs.search_paths
    assert set(ours.list_available_services("service-2")) >= {"ours", *theirs.list_available_services("service-2")}
    with pytest.raises(botocore.exceptions.UnknownServiceError):
        ours.load_service_model("nowhere", "service-2")
    with pytest.raises(botocore.exceptions.DataNotFoundError):  # its folder holds no description
        ours.load_service_model("ours", "service-2")
    assert ours.load_service_model("s3", "service-2") == theirs.load_service_model("s3", "service-2")
