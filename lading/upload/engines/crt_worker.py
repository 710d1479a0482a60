"""The process that carries files by the AWS Common Runtime (awscrt); started and fed by ``crt.py``.

Input and output: lines as ``child_worker.py`` says; between size and seen are headers and the bytes of a part, 0 for a
file that goes in one request.
Invariant: what is sent is read from what was opened, by the name of its descriptor; secrets come from the environment
or botocore's chain alone; at most ``REQUESTS`` transfers and ``MEMORY_BYTES`` of memory are in use. Each
transfer is begun at most twice: the second time without a checksum that nobody asked for and the server may not know.
The first small object goes alone, and so tells for all others whether the server takes a checksum.

A process of its own: a request that hangs cannot be ended from Python, a
process can; and the client's threads are never there when a program forks.
"""

import ctypes
import importlib.util
import os
import queue
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from awscrt import auth, http, io, s3

from lading.core.byte_gate import ByteGate
from lading.core.opening import Root, raise_descriptor_limit
from lading.objectstore.failures import NO_CREDENTIALS, classify
from lading.objectstore.object_info import StoreError
from lading.objectstore.profile import profile_credentials
from lading.objectstore.target import FailureKind
from lading.upload.engines.child_worker import CODE, FOLDER, MESSAGE, open_file, report, serve

BUDGET_BYTES = 400 << 20  # of the files in flight; the client reads parts ahead of them, up to
MEMORY_BYTES = 1 << 30  # the least that it takes
PARTS_AT_ONCE = 4  # of one file
REQUESTS = 256
THREADS = 8
ALONE_SECONDS = 2.0  # that others wait for the first
MOST_RETRIES = 4
RETRY_MILLISECONDS = 300  # twice as long each time, up to
RETRY_SECONDS = 10
CONNECT_MILLISECONDS = 10_000
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")  # one label of a host: no dot, which certificates lack
# Of awscrt, by the beginnings of their names: what no answer of the server is.
_FILE = ("AWS_ERROR_FILE_", "AWS_ERROR_NO_SUCH_FILE", "AWS_ERROR_NO_PERMISSION", "AWS_IO_STREAM_", "AWS_ERROR_S3_FILE_")
_NETWORK = ("AWS_IO_", "AWS_ERROR_HTTP_", "AWS_ERROR_S3_CANCELED", "AWS_ERROR_S3_PROXY_")


def choose_host(settings: dict[str, Any]) -> tuple[str, str, bool]:
    """Return the host that requests name, the beginning of their paths, and whether by TLS."""
    bucket, region = settings["bucket"], settings["region"] or "us-east-1"
    if settings["endpoint"]:
        parts = urlsplit(settings["endpoint"])
        host, base, secure = parts.netloc, parts.path.rstrip("/"), parts.scheme == "https"
        virtual = settings["style"] == "virtual"
    else:
        china = ".cn" if region.startswith("cn-") else ""
        host, base, secure = f"s3.{region}.amazonaws.com{china}", "", True
        virtual = settings["style"] != "path" and bool(_PLAIN_NAME.fullmatch(bucket))
    return (f"{bucket}.{host}", f"{base}/", secure) if virtual else (host, f"{base}/{bucket}/", secure)


def trust(bundle: str | None) -> Any:
    """Return what a client needs for TLS: by these certificates, else by the system's, else by botocore's."""
    options = io.TlsContextOptions()
    if bundle:
        options.override_default_trust_store(Path(bundle).read_bytes())
        return io.ClientTlsContext(options).new_connection_options()
    try:
        return io.ClientTlsContext(options).new_connection_options()
    except Exception:  # noqa: BLE001 - awscrt has one class for all of its errors; the next try raises its own
        found = importlib.util.find_spec("botocore")
        places = (found and found.submodule_search_locations) or ["/nowhere"]
        options.override_default_trust_store(Path(places[0], "cacert.pem").read_bytes())
        return io.ClientTlsContext(options).new_connection_options()


def find_credentials() -> Any:
    """Return awscrt's provider: of the keys in the environment, else by botocore's chain, asked for each request.

    botocore renews what is about to expire, and remembers it until then.
    """
    environment = os.environ
    key, secret = environment.get("AWS_ACCESS_KEY_ID"), environment.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        return auth.AwsCredentialsProvider.new_static(key, secret, environment.get("AWS_SESSION_TOKEN") or None)
    ask = profile_credentials()
    if ask is None:
        raise StoreError(FailureKind.STOP, NO_CREDENTIALS, "credentials")
    return auth.AwsCredentialsProvider.new_delegate(lambda: auth.AwsCredentials(*ask()))


def open_client(settings: dict[str, Any], secure: bool) -> Any:
    """Return the client of a run."""
    cores = len(os.sched_getaffinity(0))
    # The other half of the cores reads, hashes and verifies; loops that all wait for the interpreter only take turns.
    group = io.EventLoopGroup(min(THREADS, max(1, cores // 2)))
    region = settings["region"] or "us-east-1"
    signing = None
    if not settings["unsigned"]:
        signing = s3.create_default_s3_signing_config(region=region, credential_provider=find_credentials())
    return s3.S3Client(
        bootstrap=io.ClientBootstrap(group, io.DefaultHostResolver(group)),
        region=region,
        tls_mode=s3.S3RequestTlsMode.ENABLED if secure else s3.S3RequestTlsMode.DISABLED,
        tls_connection_options=trust(settings["bundle"]) if secure else None,
        signing_config=signing,
        part_size=settings["part_bytes"],
        multipart_upload_threshold=settings["part_bytes"],
        memory_limit=MEMORY_BYTES,
        max_active_connections_override=settings["workers"],
        retry_config=s3.S3RetryConfig(
            max_retries=MOST_RETRIES, backoff_scale_factor_ms=RETRY_MILLISECONDS, max_backoff_secs=RETRY_SECONDS
        ),
        connect_timeout_ms=CONNECT_MILLISECONDS,
    )


def describe(error: Exception, body: bytes | None = None) -> tuple[str, str]:
    """Return a code (the server's, or one of ours in lower case) and a one-line message."""
    if isinstance(error, StoreError):
        return error.code or "other", str(error)
    if isinstance(error, OSError):
        return "file", (error.strerror or str(error)).split("\n")[0][:200]
    name, words = getattr(error, "name", ""), " ".join(str(getattr(error, "message", "")).split())[:200]
    status = getattr(error, "status_code", None)
    if status and status >= 300:
        text = (body or b"").decode(errors="replace")
        code, message = CODE.search(text), MESSAGE.search(text)
        if code:
            return code[1], message[1] if message else ""
        return _named(status), f"the server answered {status}"
    if name.startswith(_FILE):
        return "file", words or "it cannot be read"
    if name.startswith("AWS_AUTH_"):
        return "credentials", f"no credentials are to be had: {words}"
    if name.startswith(_NETWORK):
        return "network", "timed out" if "TIMEOUT" in name else f"the connection broke ({words})"
    if name.startswith("AWS_ERROR_S3_"):
        return "nonsense", f"the answer cannot be used ({words}); this is an error of the server, so run again later"
    return "other", f"{type(error).__name__}: {words or str(error)[:200]}"


def _named(status: int) -> str:
    """Return the code of S3 for an answer that names none."""
    return {301: "PermanentRedirect", 403: "AccessDenied", 412: "PreconditionFailed"}.get(status, str(status))


_kept = threading.local()


def keep_thread() -> None:
    """Let a thread of the client, which calls this, keep what the interpreter knows of it until the process ends.

    Without it each call from there takes 16 kB from the kernel and gives it back, which stops the other cores for a
    moment: PyGILState_Ensure makes the state of a thread anew unless an earlier one is still open. This one stays so.
    """
    if not hasattr(_kept, "state"):
        _kept.state = ctypes.pythonapi.PyGILState_Ensure()


class Transfer:
    """One file on its way: holds its descriptor and the request until that is done."""

    def __init__(self, sender: "Sender", row: list[Any], checked: bool, descriptor: int) -> None:
        self._sender, self._row, self.checked, self._descriptor = sender, row, checked, descriptor
        self._etag = ""
        self.request: Any = None

    def on_headers(self, status_code: int, headers: list[tuple[str, str]], **_: Any) -> None:
        """Remember the ETag of the answer."""
        keep_thread()
        for name, value in headers:
            if name.lower() == "etag":
                self._etag = value.removeprefix("W/").strip('"')

    def on_done(
        self, error: Any = None, error_body: bytes | None = None, error_operation_name: str | None = None, **_: Any
    ) -> None:
        """Tell what became of it; called by a thread of the client, once."""
        os.close(self._descriptor)
        self.request = None
        self._sender.finish(self._row, self.checked, self._etag, error, error_body, error_operation_name or "PutObject")


class Sender:
    """Begins transfers as there is room for them, and reports their ends."""

    def __init__(self, settings: dict[str, Any], root: Root | None) -> None:
        if FOLDER is None:
            raise StoreError(FailureKind.STOP, "crt cannot open the descriptors of its process (/proc)", "other")
        self._host, self._base, secure = choose_host(settings)
        self._headers = list(settings["headers"].items())
        self._client = open_client(settings, secure)
        self._root = root
        self._asked = settings["checksum"] is not None
        algorithm = s3.S3ChecksumAlgorithm[settings["checksum"] or "CRC64NVME"]
        self._checksum = s3.S3ChecksumConfig(algorithm=algorithm, location=s3.S3ChecksumLocation.HEADER)
        # Whether the server takes a checksum: of an object that is sent whole, and of one in parts.
        self._takes: dict[bool, bool | None] = {False: None, True: None}
        self._known = threading.Event()
        if self._asked:
            self._known.set()
        most = (raise_descriptor_limit() - 64 - settings["workers"]) // 2  # the client opens each once more
        self._room = threading.Semaphore(max(4, min(REQUESTS, most)))
        self._gate = ByteGate(BUDGET_BYTES)
        self._tasks: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def take(self, row: list[Any]) -> None:
        """Queue one task."""
        self._tasks.put(row)

    def _run(self) -> None:
        first = True  # of those that are sent whole
        while True:
            row = self._tasks.get()
            if not first:
                self._known.wait(ALONE_SECONDS)
                self._known.set()
            self._room.acquire()
            self._gate.enter(self._memory(row))
            try:
                self._begin(row, checked=True)
                first = first and row[5] > 0
            except Exception as error:  # noqa: BLE001 - reported as the task's outcome
                self._leave(row)
                report(row[0], None, *describe(error))

    def _memory(self, row: list[Any]) -> int:
        """Return the bytes of a task's file that are held at a time."""
        size, part = row[3], row[5]
        return int(min(size, PARTS_AT_ONCE * part) if part else size)

    def _leave(self, row: list[Any]) -> None:
        self._gate.leave(self._memory(row))
        self._room.release()

    def _begin(self, row: list[Any], *, checked: bool) -> None:
        _, path, key, size, headers, part, seen = row
        descriptor = open_file(self._root, path, seen)
        try:
            now = os.fstat(descriptor).st_size
            if now != size:
                raise OSError(0, f"it has {now:,} bytes now, and had {size:,} a moment ago")
            fields = [("Host", self._host), ("Content-Length", str(size)), *self._headers, *map(tuple, headers)]
            request = http.HttpRequest("PUT", self._base + quote(key, safe="/-._~"), http.HttpHeaders(fields))
            checked = self._asked or (checked and self._takes[part > 0] is not False)
            transfer = Transfer(self, row, checked, descriptor)
            transfer.request = self._client.make_request(
                type=s3.S3RequestType.PUT_OBJECT,
                request=request,
                send_filepath=f"{FOLDER}/{descriptor}",
                checksum_config=self._checksum if checked else None,
                part_size=part or None,
                max_active_connections_override=PARTS_AT_ONCE if part else None,
                on_headers=transfer.on_headers,
                on_done=transfer.on_done,
            )
        except BaseException:
            os.close(descriptor)
            raise

    def finish(self, row: list[Any], checked: bool, etag: str, error: Any, body: bytes | None, operation: str) -> None:
        """Report the end of a transfer, or begin it once more without a checksum."""
        in_parts = row[5] > 0
        code, message = describe(error, body) if error else ("", "")
        if getattr(error, "name", "") == "AWS_ERROR_S3_MISSING_UPLOAD_ID":
            operation = "CreateMultipartUpload"
        if not error and not etag and not in_parts:  # at the end of one in parts Ceph names none
            code = "nonsense"
            message = f"the answer to {operation} has no ETag; this is an error of the server, so run again later"
        if not error and (checked or self._takes[in_parts] is None):
            self._takes[in_parts] = checked  # False: by the second try alone
        if checked and not self._asked and self._takes[in_parts] is None and _may_be_refused(error, code):
            try:
                self._begin(row, checked=False)
            except Exception as again:  # noqa: BLE001 - reported as the task's outcome
                code, message = describe(again)
            else:
                return
        if not in_parts:
            self._known.set()
        self._leave(row)
        report(row[0], etag or None, code, message, operation)


def _may_be_refused(error: Any, code: str) -> bool:
    """Tell whether an answer may mean that the server knows no checksums."""
    status = getattr(error, "status_code", None) or 0
    return (400 <= status < 500 or status == 501) and classify(code) is FailureKind.OBJECT


def begin(settings: dict[str, Any], root: Root | None) -> Callable[[list[Any]], None]:
    """Open the client; returns what takes a task."""
    with suppress(ValueError):  # a limit below what is open
        raise_descriptor_limit()
    return Sender(settings, root).take


if __name__ == "__main__":
    serve(begin, describe)
