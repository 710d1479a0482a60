"""The remote clients against servers on loopback that check method, headers and body."""

import base64
import hashlib
import hmac
import json
import re
import socket
import time
from pathlib import Path

import pytest
from pydantic import SecretStr

from lading.core.errors import UsageError
from lading.sessions import presets
from lading.sessions.services import codeocean, docdb, mail, metadata_service, parameter_store, webhook
from lading.sessions.services.http import HttpClient, RemoteError, Unreachable
from tests.servers.web import serve

TOKEN = SecretStr("c0de-ocean-t0ken")


def quick(url: str, **more: object) -> HttpClient:
    return HttpClient("the service", url, backoff=0.01, timeout=2, **more)  # type: ignore[arg-type]


def test_a_computation_is_posted_once_with_token_and_body() -> None:
    with serve(lambda request: (200, {"id": "run-1", "state": "initializing"})) as web:
        service = codeocean.client(web.url, TOKEN)
        body = codeocean.computation_request(
            capsule_id="abc-1", version="3", parameters=[codeocean.trigger_parameter({"bucket": "b", "prefix": "p"})]
        )
        assert codeocean.run(service, body, repeated=False) == "run-1"
    (request,) = web.requests
    assert (request.method, request.path) == ("POST", "/api/v1/computations")
    expected = "Basic " + base64.b64encode(b"c0de-ocean-t0ken:").decode()
    assert request.headers["Authorization"] == expected
    assert request.headers["Content-Type"] == "application/json"
    assert request.body == {
        "capsule_id": "abc-1",
        "version": 3,
        "parameters": ['{"trigger_codeocean_job": {"bucket": "b", "prefix": "p"}}'],
    }
    assert TOKEN.get_secret_value() not in repr(service)


def test_a_repeated_start_finds_the_first() -> None:
    started: list[dict] = []

    def answer(request):
        if request.method == "GET":
            return 200, started
        started.append({"id": f"run-{len(started)}", "state": "running", "parameters": request.body["parameters"]})
        return 200, started[-1]

    with serve(answer) as web:
        service = codeocean.client(web.url, TOKEN)
        body = codeocean.computation_request(capsule_id="abc", parameters=["x"])
        other = codeocean.computation_request(capsule_id="abc", parameters=["y"])
        first = codeocean.run(service, body, repeated=True)
        assert codeocean.run(service, body, repeated=True) == first
        assert codeocean.run(service, other, repeated=True) != first
    assert len(web.of("POST", "/api/v1/computations")) == 2


def test_assets_are_registered_once() -> None:
    assets: list[dict] = []

    def answer(request):
        if request.path.endswith("search"):
            return 200, {"results": assets, "has_more": False}
        assets.append({"id": "asset-1", "name": request.body["name"]})
        return 200, assets[-1]

    with serve(answer) as web:
        service = codeocean.client(web.url, TOKEN)
        wanted = {"name": "s_1", "bucket": "b", "prefix": "s_1", "tags": ["raw"], "properties": {"subject id": "1"}}
        assert {codeocean.register_asset(service, **wanted) for _ in range(2)} == {"asset-1"}
    (request,) = web.of("POST", "/api/v1/data_assets")
    source = {"aws": {"bucket": "b", "prefix": "s_1", "keep_on_external_storage": True, "public": False}}
    assert request.body["source"] == source


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_is_tried_again(status: int) -> None:
    with serve(lambda _: (status, {}, {"Retry-After": "0"}) if len(web.requests) < 3 else (200, {"id": "x"})) as web:
        assert quick(web.url).request("POST", "computations", {"a": 1}, idempotent=False).body == {"id": "x"}
    assert len(web.requests) == 3


def test_what_may_have_been_done_is_repeated_only_if_harmless() -> None:
    with serve(lambda _: (502, {"message": "bad gateway"})) as web:
        with pytest.raises(RemoteError, match="502"):
            quick(web.url).request("POST", "computations", {}, idempotent=False)
        assert len(web.requests) == 1
        with pytest.raises(RemoteError, match="502"):
            quick(web.url).request("GET", "subject/1", idempotent=True)
        assert len(web.requests) == 1 + 5
    with serve(lambda _: None) as web, pytest.raises(Unreachable):
        quick(web.url).request("POST", "computations", {}, idempotent=False)
    assert len(web.requests) == 1


def test_silence_is_unreachable_and_plain_http_is_refused() -> None:
    with pytest.raises(Unreachable, match="does not answer"):
        quick("http://127.0.0.1:9", attempts=2).request("GET", "x", idempotent=True)
    with pytest.raises(UsageError, match="not https"):
        quick("http://example.org").request("GET", "x", idempotent=True)


def test_no_redirect_carries_a_token_elsewhere() -> None:
    with (
        serve(lambda _: (200, {})) as other,
        serve(lambda _: (302, {}, {"Location": other.url})) as web,
        pytest.raises(RemoteError, match="302"),
    ):
        quick(web.url, headers={"Authorization": "x"}).request("GET", "a", idempotent=True)
    assert other.requests == []


@pytest.mark.parametrize(
    ("status", "body", "content", "valid"),
    [
        (200, {"subject_id": "1"}, {"subject_id": "1"}, True),
        (200, {"message": "ok", "data": {"subject_id": "1"}}, {"subject_id": "1"}, True),
        (300, {"message": "several", "data": [{"n": 1}, {"n": 2}]}, {"n": 1}, True),
        (406, {"message": "invalid", "data": {"odd": True}}, {"odd": True}, False),
    ],
)
def test_each_answer_of_the_metadata_service(status: int, body, content, valid: bool) -> None:
    with serve(lambda _: (status, body)) as web:
        record = metadata_service.fetch(quick(web.url), "subject", "1 2")
    assert record is not None
    assert (dict(record.content), record.valid) == (content, valid)
    assert [request.path for request in web.requests] == ["/subject/1%202"]


def test_an_unknown_subject_and_a_broken_service() -> None:
    with serve(lambda _: (404, {"message": "No Data Found."})) as web:
        assert metadata_service.fetch(quick(web.url), "procedures", "1") is None
    with serve(lambda _: (200, "hello")) as web, pytest.raises(RemoteError, match="without a record"):
        metadata_service.fetch(quick(web.url), "procedures", "1")


def test_docdb_upserts_by_name(tmp_path: Path) -> None:
    with serve(lambda _: (200, {})) as web:
        for _ in range(2):
            docdb.upsert(quick(web.url), {"name": "s_1", "a": 1}, database="db", collection="assets")
    (first, second) = web.requests
    assert first.path == "/db/assets/update_one"
    assert first.body == second.body == {
        "filter": {"name": "s_1"}, "update": {"$set": {"name": "s_1", "a": 1}}, "upsert": True,
    }  # fmt: skip
    for number in range(2):
        docdb.write_local(tmp_path, {"name": "s_1", "a": number})
    assert [json.loads(path.read_text())["a"] for path in tmp_path.iterdir()] == [1]


def test_a_webhook_is_signed() -> None:
    with serve(lambda _: (204, {})) as web:
        webhook.post(web.url, {"id": "1", "text": "größe"}, SecretStr("key"))
    (request,) = web.requests
    digest = hmac.new(b"key", request.raw, hashlib.sha256).hexdigest()
    assert request.headers["X-Lading-Signature"] == f"sha256={digest}"


@pytest.mark.parametrize("reply", [(503, {}, {"Retry-After": "30"}), None])
def test_a_webhook_that_is_out_of_order_holds_nobody_up(reply) -> None:
    began = time.monotonic()
    with serve(lambda _: reply) as web, pytest.raises(RemoteError, match="the webhook"):
        webhook.post(web.url, {"id": "1"})
    assert len(web.requests) == 2
    assert time.monotonic() - began < 10


def test_a_webhook_that_says_nothing_is_left_after_two_short_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "TIMEOUT", webhook.TIMEOUT / 10)
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unreachable, match="does not answer"):
        webhook.post(f"http://127.0.0.1:{silent.getsockname()[1]}", {"id": "1"})
    assert time.monotonic() - began < 3


@pytest.fixture
def smtp():
    from aiosmtpd.controller import Controller

    class Handler:
        def __init__(self) -> None:
            self.messages: list[str] = []

        async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd's name
            self.messages.append(envelope.content.decode())
            return "250 OK"

    handler = Handler()
    controller = Controller(handler, hostname="127.0.0.1", port=0)
    # Port 0 lets the system choose; aiosmtpd probes the port it was given, so choose first.
    from lading.testing.s3_server import free_port

    controller.port = free_port()
    controller.start()
    yield controller.port, handler.messages
    controller.stop()


def test_mail_arrives_and_a_repeat_has_the_same_id(smtp) -> None:
    port, messages = smtp
    server = mail.MailServer("127.0.0.1", "lading@example.org", port, tls="none")
    for _ in range(2):
        mail.send(server, mail.message(server.sender, "a@example.org", "done\nX-Evil: 1", "text", name="job#end"))
    assert len({re.search(r"Message-ID: (.*)", text, re.IGNORECASE)[1] for text in messages}) == 1
    assert "\nX-Evil" not in messages[0]


def test_mail_failures_are_sentences() -> None:
    server = mail.MailServer("127.0.0.1", "a@example.org", 9, tls="none")
    with pytest.raises(RemoteError, match="did not take the message"):
        mail.send(server, mail.message("a@example.org", "b@example.org", "s", "t", name="x"))
    with pytest.raises(RemoteError, match="without TLS"):
        mail.send(
            mail.MailServer("mail.example.org", "a@b.org", tls="none", password=SecretStr("x")), mail.EmailMessage()
        )
    assert [mail.wanted("end", types) for types in (("fail",), ("all",), ("begin", "end"))] == [False, True, True]


@pytest.fixture
def ssm(monkeypatch: pytest.MonkeyPatch):
    from moto import mock_aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    import boto3

    with mock_aws():
        yield boto3.client("ssm")


def test_endpoints_and_their_secrets(ssm) -> None:
    endpoints = {
        "codeocean_domain": "https://co.example.org",
        "codeocean_api_token_path": "/secret/co",
        "video_encryption_password_path": "/secret/video",
        "codeocean_process_capsule_id": None,
    }
    ssm.put_parameter(Name="/endpoints", Value=json.dumps(endpoints), Type="String")
    ssm.put_parameter(Name="/secret/co", Value='{"CODEOCEAN_API_TOKEN": "t0ken"}', Type="SecureString")
    ssm.put_parameter(Name="/secret/video", Value='{"password": "pass"}', Type="SecureString")
    found = parameter_store.read_endpoints("/endpoints")
    assert found["codeocean_api_token"].get_secret_value() == "t0ken"
    assert found["video_encryption_password"].get_secret_value() == "pass"
    assert "t0ken" not in repr(found)
    assert "codeocean_api_token_path" not in found
    with pytest.raises(UsageError, match="has no /nothing"):
        parameter_store.read_endpoints("/nothing")


def test_presets_are_equal_from_a_directory_and_from_the_store(ssm, tmp_path: Path) -> None:
    entries = {
        "job_types/v2/default/tasks/upload_data_to_s3": {"job_settings": {"a": 1}},
        "job_types/v2/ecephys/tasks/modality_transformation_settings/ecephys": {"job_settings": {"level": 8}},
        "job_types/v2/ecephys/tasks/compress_data": {"image_resources": {"memory_gb": 8}},
        "site/settings": {"buckets": {"default": "b-1"}},
        **{f"job_types/v2/t{n}/tasks/compress_data": {} for n in range(25)},  # more than one page
    }
    for key, value in entries.items():
        ssm.put_parameter(Name=f"/lab/{key}", Value=json.dumps(value), Type="String")
        path = tmp_path / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value))
    stored = presets.load(parameter_store.ParameterStore("/lab"), "x")
    assert stored == presets.load(presets.PresetDirectory(tmp_path), "x")
    assert stored.names() == sorted(["custom", "default", "ecephys", *(f"t{n}" for n in range(25))])
    assert set(stored.tasks("ecephys")) == {
        "upload_data_to_s3", "modality_transformation_settings", "compress_data",
    }  # fmt: skip
    assert stored.tasks("custom") == {}
    with pytest.raises(ValueError, match="did you mean 'ecephys'"):
        stored.tasks("ecefys")


def test_faults_of_presets_are_listed_at_once(tmp_path: Path) -> None:
    for name, text in {
        "job_types/v2/a/tasks/uplod_data_to_s3.json": "{}",
        "job_types/v2/a/tasks/compress_data.json": "[]",
        "job_types/v2/a/compress_data.json": "{}",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with pytest.raises(UsageError) as caught:
        presets.load(presets.PresetDirectory(tmp_path), "x")
    assert len(str(caught.value).splitlines()) == 2
    (tmp_path / "job_types/v2/a/compress_data.json").unlink()
    (tmp_path / "job_types/v2/a/tasks/compress_data.json").write_text("{}")
    # A task that nothing here has is no fault of the store, which others may share.
    assert (
        "did you mean 'upload_data_to_s3'"
        in presets.near_misses(presets.load(presets.PresetDirectory(tmp_path), "x"), "a")[0]
    )
    (tmp_path / "job_types/v2/a/tasks/compress_data.json").write_text("{")
    with pytest.raises(UsageError, match="is not JSON"):
        presets.load(presets.PresetDirectory(tmp_path), "x")


def test_faults_of_the_sites_settings_are_told_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "site" / "settings.yaml"
    path.parent.mkdir()
    path.write_text(
        "{webhook: 'https://hooks.example.org', mail: {sender: [a], port: smtp}, docdb: {url: 'http://db.org'}}"
    )
    with pytest.raises(UsageError) as caught:
        presets.load(presets.PresetDirectory(tmp_path), "here")
    told = [line.split("here: the site's settings: ")[1] for line in str(caught.value).splitlines()]
    assert [sentence.split(";")[0] for sentence in told] == [
        "webhook is an object, not text",
        "mail: host is missing",
        "mail: sender is text, not a list",
        "mail: port is not a whole number",
        "docdb: url: 'http://db.org' is plain http, which would show its token to the network",
    ]
    path.write_text(
        "{webhook: {url: hooks.example.org, secret: 'env:KEY'}, mail: {host: h, sender: s, port: 587}, docdb: null}"
    )
    assert presets.load(presets.PresetDirectory(tmp_path), "here").site["mail"]["port"] == 587


def test_merge_is_deep_and_replaces_lists() -> None:
    below = {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}
    assert presets.merge(below, {"a": {"c": [3]}, "d": 5}) == {"a": {"b": 1, "c": [3]}, "d": 5}
    assert below == {"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}


def test_secrets_are_followed_to_where_they_are(ssm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("from-file\n")
    (tmp_path / "key").chmod(0o600)
    monkeypatch.setenv("MY_KEY", "from-env")
    ssm.put_parameter(Name="/k", Value="from-ssm", Type="SecureString")
    for text, wanted in {"file:key": "from-file", "env:MY_KEY": "from-env", "ssm:/k": "from-ssm", "it": "it"}.items():
        assert parameter_store.reveal(SecretStr(text), tmp_path).get_secret_value() == wanted
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(UsageError, match="chmod 600"):
        parameter_store.reveal(SecretStr("file:key"), tmp_path)
