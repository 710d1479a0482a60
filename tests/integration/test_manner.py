"""How requests are made: engines send the form, the region and the headers that were asked for, or say they cannot."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.core.errors import UsageError
from lading.objectstore.manner import Manner, check_style, read_manner, unable
from lading.objectstore.network import choose_way
from lading.objectstore.target import Target
from tests.conftest import need_program
from tests.servers.liar import Asked, Liar, serve
from tests.servers.tls import NAME, connect_proxy, make_certificates, tls_front
from tests.shipping import Site, write_files

ENGINES = ["s5cmd", "boto3", "obstore", "crt"]
HERE = "eu-west-3"


@pytest.fixture
def liar(monkeypatch: pytest.MonkeyPatch) -> Iterator[Liar]:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "known")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with serve() as server:
        yield server


def make_site(liar: Liar, tmp_path: Path, files: int = 6) -> Site:
    site = Site(tmp_path, liar.endpoint, "bucket")
    write_files(site.release, {b"d/%d" % number: 3000 for number in range(files)})
    site.plan()
    return site


def puts(liar: Liar) -> list[Asked]:
    return [asked for asked in liar.asked if asked.method == "PUT" and ".lading-canary" not in asked.path]


@pytest.fixture
def far(liar: Liar, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The server under a name that only a proxy knows; the lines by which the proxy was asked."""
    need_program("openssl")
    ca, certificate, key = make_certificates(tmp_path_factory.mktemp("certificates"))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(ca))
    with (
        tls_front(int(liar.endpoint.rpartition(":")[2]), certificate, key) as front,
        connect_proxy(front) as (port, asked),
    ):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        liar.endpoint = f"https://{NAME}"
        yield asked


@pytest.mark.parametrize(
    ("style", "by"),
    [
        ("virtual", "profile"),
        pytest.param("path", "flag", marks=pytest.mark.long),
        pytest.param("virtual", "flag", marks=pytest.mark.long),
        pytest.param("path", "profile", marks=pytest.mark.long),
    ],
)
def test_each_engine_sends_the_style_or_says_that_it_cannot(
    style: str, by: str, liar: Liar, far: list[str], tmp_path: Path, tmp_home: Path
) -> None:
    site = make_site(liar, tmp_path)
    flags = ["--addressing-style", style] if by == "flag" else []
    if by == "profile":
        (tmp_home / ".aws").mkdir()
        (tmp_home / ".aws" / "config").write_text(f"[default]\ns3 =\n    addressing_style = {style}\n")
    host = NAME if style == "path" else f"bucket.{NAME}"
    for engine in ENGINES:
        liar.objects.clear()
        liar.asked.clear()
        if (tmp_path / "journal").exists():
            (tmp_path / "journal").rename(tmp_path / f"journal-{engine}")
        done = site.upload("--engine", engine, *flags)
        assert done.returncode == 0, done.stderr
        assert {asked.host for asked in liar.asked} == {host}
        sent = [asked.path for asked in puts(liar)]
        assert len(sent) == 6
        assert all(path.startswith("/bucket/dr1/" if style == "path" else "/dr1/") for path in sent)
        notes = [line for line in done.stderr.splitlines() if line.startswith("note:")]
        if (engine, style) == ("s5cmd", "virtual"):
            lacks = f"s5cmd can only address {NAME} in path style, and virtual was requested"
            assert notes == [f"note: {lacks}, so crt sends the files"]
        else:
            assert notes == []
        assert site.runs()[-1]["retries"] == 0
    done = site.verify(*flags)
    assert done.returncode == 0, done.stderr
    assert {line.split()[1] for line in far} == {f"{host}:443"}


def test_a_style_that_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match=r"127.0.0.1 is an address; name the server"):
        choose_way(Target("b", "http://127.0.0.1:9", manner=Manner("virtual")))
    with pytest.raises(UsageError, match="cannot be part of a host name"):
        check_style("virtual", "My_Bucket", "https://s3.example.org")
    check_style("virtual", "my-bucket", "https://s3.example.org")
    assert unable("s5cmd", Manner(), "path", None) == (
        "s5cmd can only address AWS in virtual style, and path was requested"
    )
    assert unable("s5cmd", Manner(), None, None) is unable("obstore", Manner(), "virtual", "https://x.example") is None


def elsewhere(code: str, status: int, named: bool, where: dict[str, str]):  # type: ignore[no-untyped-def]
    """Answer as a server does that was asked in another region than the bucket's."""

    def answer(asked: Asked) -> tuple[int, str, dict[str, str]] | None:
        if asked.region == HERE:
            return None
        region = f"<Region>{HERE}</Region>" if named and code == "AuthorizationHeaderMalformed" else ""
        header = {"x_amz_bucket_region": HERE} if named and not region else {}
        where["last"] = code
        body = f"<Error><Code>{code}</Code><Message>another region</Message>{region}</Error>"
        return status, body, {"Content_Type": "application/xml", **header}

    return answer


@pytest.mark.parametrize(
    ("code", "status", "engine"),
    [
        ("PermanentRedirect", 301, "s5cmd"),
        ("AuthorizationHeaderMalformed", 400, "obstore"),
        pytest.param("TemporaryRedirect", 307, "boto3", marks=pytest.mark.long),
        pytest.param("AuthorizationHeaderMalformed", 400, "s5cmd", marks=pytest.mark.long),
        pytest.param("PermanentRedirect", 301, "obstore", marks=pytest.mark.long),
        pytest.param("PermanentRedirect", 301, "crt", marks=pytest.mark.long),
        pytest.param("AuthorizationHeaderMalformed", 400, "crt", marks=pytest.mark.long),
        pytest.param("PermanentRedirect", 301, "boto3", marks=pytest.mark.long),
    ],
)
def test_the_region_that_the_server_names_is_followed(
    code: str, status: int, engine: str, liar: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    liar.instead = elsewhere(code, status, True, {})
    site = make_site(liar, tmp_path)
    done = site.upload("--engine", engine)
    assert done.returncode == 0, done.stderr
    assert f"the bucket is in the region {HERE}; set AWS_REGION={HERE}" in done.stderr
    assert {asked.region for asked in puts(liar)} == {HERE}
    assert len(puts(liar)) == 6, "nothing was sent in vain"
    assert site.runs()[-1]["retries"] == 0, "by the engine that was asked for"


def test_a_region_that_is_not_named_is_told_in_one_sentence(
    liar: Liar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    liar.instead = elsewhere("PermanentRedirect", 301, False, {})
    site = make_site(liar, tmp_path)
    for done in (site.upload(), site.verify()):
        assert done.returncode == 1
        assert "the bucket is in another region; set AWS_REGION" in done.stderr
        assert "Traceback" not in done.stderr
    assert not puts(liar)


def demand(asked: Asked) -> tuple[int, str, dict[str, str]] | None:
    """Refuse bodies without a checksum, as buckets with Object Lock do."""
    names = {name for name in asked.headers if name == "content-md5" or name.startswith("x-amz-checksum-")}
    if asked.method != "PUT" or names:
        return None
    words = "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock parameters"
    return 400, f"<Error><Code>InvalidRequest</Code><Message>{words}</Message></Error>", {}


@pytest.mark.parametrize(
    ("engine", "acl"),
    [
        ("s5cmd", "bucket-owner-full-control"),
        ("obstore", None),
        pytest.param("boto3", "public-read", marks=pytest.mark.long),
        pytest.param("obstore", "public-read", marks=pytest.mark.long),
        pytest.param("crt", "public-read", marks=pytest.mark.long),
    ],
)
def test_what_each_object_is_to_be_stored_with_is_sent(
    engine: str, acl: str | None, liar: Liar, tmp_path: Path
) -> None:
    site = make_site(liar, tmp_path)
    liar.instead = demand
    flags = ["--sse", "aws:kms", "--sse-kms-key-id", "key-1", *(["--acl", acl] if acl else [])]
    done = site.upload("--engine", engine, *flags)
    assert done.returncode == 0, done.stderr
    written = [asked.headers for asked in liar.asked if asked.method == "PUT"]
    assert len(written) == 7, "the test object too, each once: by the engine that was asked for"
    for headers in written:
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "key-1"
        assert headers.get("x-amz-acl") == acl
    told = "note: obstore cannot send --acl, so crt sends the files" in done.stderr
    assert told is (engine == "obstore" and acl is not None)


@pytest.mark.parametrize("engine", ["s5cmd", "obstore", pytest.param("crt", marks=pytest.mark.long)])
def test_an_engine_that_sends_nothing_is_not_replaced_in_silence(engine: str, liar: Liar, tmp_path: Path) -> None:
    site = make_site(liar, tmp_path)

    def refuse(asked: Asked) -> tuple[int, str, dict[str, str]] | None:
        if asked.method != "PUT" or "Botocore" in asked.headers.get("user-agent", ""):
            return None
        return 400, "<Error><Code>InvalidRequest</Code><Message>not by this one</Message></Error>", {}

    liar.instead = refuse
    done = site.upload("--engine", engine)
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if line.startswith("note:")]
    assert len(notes) == 1
    assert notes[0].startswith(f"note: {engine} has sent nothing so far, so boto3 sends what it could not: ")
    assert "not by this one" in notes[0]


def test_a_key_of_encryption_needs_encryption() -> None:
    flags = Namespace(addressing_style=None, no_sign_request=False, sse="AES256", sse_kms_key_id="key-1", acl=None)
    with pytest.raises(UsageError, match=r"^--sse-kms-key-id needs --sse=aws:kms"):
        read_manner(flags)
    flags.sse = "aws:kms"
    assert read_manner(flags) == Manner(sse="aws:kms", kms_key="key-1")
