"""Proxies and certificates mean the same for every client of a run."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lading.core.errors import UsageError
from lading.objectstore.network import CERTIFICATES, Way, choose_way, find_proxy, is_exempt
from lading.objectstore.target import Target
from tests.conftest import need_program
from tests.servers.tls import NAME, connect_proxy, make_certificates, tls_front
from tests.shipping import Site, make_site, write_files

ENGINES = ["s5cmd", "boto3", "obstore", "crt"]
DEAD = "http://127.0.0.1:9"


def long(value: str) -> object:
    """Return a parameter that only the long tests try."""
    return pytest.param(value, marks=pytest.mark.long)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*CERTIFICATES, "SSL_CERT_DIR", "http_proxy", "https_proxy", "all_proxy", "no_proxy"]:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@dataclass
class Front:
    """The TLS front: its port and the certificate that vouches for it."""

    port: int
    ca: Path


@pytest.fixture
def front(s3, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    need_program("openssl")
    ca, certificate, key = make_certificates(tmp_path_factory.mktemp("certificates"))
    with tls_front(int(s3.endpoint.rpartition(":")[2]), certificate, key) as port:
        yield Front(port, ca)


def prepare(tmp_path: Path, s3, bucket: str) -> Site:
    site = make_site(tmp_path, s3, bucket)
    write_files(site.release, {b"d/%d" % number: 4000 for number in range(12)})
    site.plan()
    return site


@pytest.mark.parametrize("engine", ["obstore", *map(long, ["boto3", "s5cmd", "crt"])])
def test_this_machine_is_never_reached_by_a_proxy(
    engine: str, s3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = prepare(tmp_path, s3, bucket)
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, DEAD)
    for done in (site.upload("--engine", engine), site.verify()):
        assert done.returncode == 0, done.stderr
    assert site.runs()[0]["retries"] == 0, "by itself, not by the second client"


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", *map(long, ["AWS_CA_BUNDLE", "SSL_CERT_FILE", "profile"])])
def test_each_variable_reaches_each_engine(
    variable: str, front: Front, s3, bucket: str, tmp_path: Path, tmp_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = prepare(tmp_path, s3, bucket)
    site.endpoint = f"https://localhost:{front.port}"
    done = site.upload()
    assert done.returncode == 1, done.stderr
    assert "has no trusted certificate" in done.stderr
    if variable == "profile":
        (tmp_home / ".aws").mkdir(exist_ok=True)
        (tmp_home / ".aws" / "config").write_text(f"[default]\nca_bundle = {front.ca}\n")
    else:
        monkeypatch.setenv(variable, str(front.ca))
    for number, engine in enumerate(ENGINES):
        (site.release / f"more-{number}").write_text(engine)
        site.plan()
        done = site.upload("--engine", engine)
        assert done.returncode == 0, done.stderr
        assert "note" not in done.stderr, "the engine that was asked for could send"
        assert site.runs()[-1]["retries"] == 0, "by itself, not by the second client"
    done = site.verify()
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(site, "endpoint", s3.endpoint)
    assert len(site.listing()) == 12 + len(ENGINES)


@pytest.mark.parametrize("engine", ["s5cmd", *map(long, ["boto3", "obstore", "crt"])])
def test_a_server_elsewhere_is_reached_by_the_proxy_alone(
    engine: str, front: Front, s3, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = prepare(tmp_path, s3, bucket)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(front.ca))
    with connect_proxy(front.port) as (port, asked):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        site.endpoint = f"https://{NAME}"
        done = site.upload("--engine", engine)
        assert done.returncode == 0, done.stderr
        assert len(asked) > 1, "the listing and the engine, each by the proxy"
        assert {line.split()[1] for line in asked} == {f"{NAME}:443"}
        done = site.verify()
        assert done.returncode == 0, done.stderr
    site.endpoint = s3.endpoint
    assert len(site.listing()) == 12


@pytest.mark.parametrize(
    ("past", "host", "exempt"),
    [
        ("", "s3.example.org", False),
        ("*", "s3.example.org", True),
        ("example.org", "s3.example.org", True),
        (".example.org", "s3.example.org", True),
        ("*.example.org", "s3.example.org", True),
        ("ample.org", "s3.example.org", False),
        ("other, s3.example.org:443", "s3.example.org", True),
        ("S3.Example.org", "s3.example.org", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("fd00::/8", "fd12::1", True),
        ("nonsense/99", "10.1.2.3", False),
    ],
)
def test_who_is_exempt(past: str, host: str, exempt: bool) -> None:
    assert is_exempt(host, past) is exempt


def test_what_is_decided_holds_for_children(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "10.0.0.0/8")
    near = choose_way(Target("b", "https://10.1.2.3"))
    assert near.proxy is None
    # Python knows no networks, Go does, others differ: the address itself is said.
    assert near.environment(os.environ)["HTTPS_PROXY"] == "http://proxy.example:3128", "for the credentials"
    far = choose_way(Target("b", "https://ceph.example"))
    assert far.proxy == "http://proxy.example:3128"
    found = far.environment(os.environ)
    assert {name: found[name] for name in found if name.lower().endswith("_proxy")} == {"HTTPS_PROXY": far.proxy}
    aws = choose_way(Target("b", region="eu-west-1"))
    assert aws.proxy == "http://proxy.example:3128"
    monkeypatch.setenv("NO_PROXY", "amazonaws.com")
    assert choose_way(Target("b", region="eu-west-1")).proxy is None
    monkeypatch.setenv("NO_PROXY", "b.s3.eu-west-1.amazonaws.com")
    direct = choose_way(Target("b", region="eu-west-1"))
    assert direct.proxy is None
    assert direct.environment(os.environ)["NO_PROXY"].endswith(",s3.eu-west-1.amazonaws.com,s3.amazonaws.com")
    assert find_proxy("https", "localhost") is find_proxy("https", "127.0.0.9") is None
    assert Way(("x",), bundle="/ca").environment({})["SSL_CERT_FILE"] == "/ca"


def test_certificates_that_cannot_be_read_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = Target("b", "https://ceph.example")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(UsageError, match=r"^AWS_CA_BUNDLE names .*none.pem, which cannot be read: No such file"):
        choose_way(target)
    (tmp_path / "none.pem").write_text("hello")
    with pytest.raises(UsageError, match=r"which contains no certificate; give a PEM file"):
        choose_way(target)
    assert choose_way(Target("b", "http://127.0.0.1:9")).bundle is None, "plain http needs none"
