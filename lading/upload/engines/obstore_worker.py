"""The process that carries files by obstore; started and fed by ``obstore.py``.

Input and output: lines as ``child_worker.py`` says; between size and seen are headers and tags.
Invariant: what is sent is read from what was opened; secrets come from the environment alone; the bytes in memory stay
below ``BUDGET_BYTES``.

A process of its own: requests that hang cannot be cancelled inside Python
threads, a process can be ended; and its interpreter lock is not the caller's.
"""

import io
import os
import queue
import re
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import obstore
import obstore.exceptions as exceptions
from obstore.store import S3Store

from lading.core.byte_gate import ByteGate
from lading.core.opening import Root
from lading.upload.engines.child_worker import CODE, FOLDER, MESSAGE, open_file, report, serve

BUDGET_BYTES = 400 << 20
PARTS_AT_ONCE = 3
_STATUS = re.compile(r"non-2xx status code: (\d+)")


def open_store(settings: dict[str, Any]) -> Any:
    """Return the store; credentials from the environment, or by boto3's chain for a profile."""
    client: dict[str, Any] = {
        "connect_timeout": "10s",
        # For a whole request: the slowest that still counts as moving is a 50 MiB part at 90 kB/s.
        "timeout": f"{settings['timeout']}s",
    }
    if settings["endpoint"] and settings["endpoint"].startswith("http://"):
        client["allow_http"] = True  # loopback only: the caller has checked
    if settings["proxy"]:
        client["proxy_url"] = settings["proxy"]
    if settings["bundle"]:
        client["root_certificate"] = Path(settings["bundle"]).read_bytes()
    keywords: dict[str, Any] = {"client_options": client}
    keywords["retry_config"] = {"max_retries": 4, "retry_timeout": timedelta(seconds=60)}
    # Some servers take nothing without a checksum (Object Lock); it is the digest that the signature needs anyway.
    keywords["checksum_algorithm"] = settings["checksum"] or "SHA256"
    if settings["payer"]:
        keywords["request_payer"] = True
    virtual = settings["style"] == "virtual"
    if settings["style"]:
        keywords["virtual_hosted_style_request"] = virtual
    if settings["endpoint"]:
        # By the library's rule, an endpoint for such names has the bucket's in it.
        scheme, _, place = settings["endpoint"].partition("://")
        keywords["endpoint"] = f"{scheme}://{settings['bucket']}.{place}" if virtual else settings["endpoint"]
    if settings["sse"]:
        keywords["server_side_encryption"] = settings["sse"]
    if settings["kms_key"]:
        keywords["sse_kms_key_id"] = settings["kms_key"]
    if settings["unsigned"]:
        keywords["skip_signature"] = True
    elif not os.environ.get("AWS_ACCESS_KEY_ID"):
        from obstore.auth.boto3 import Boto3CredentialProvider

        keywords["credential_provider"] = Boto3CredentialProvider()
    if settings["region"]:
        keywords["region"] = settings["region"]
    return S3Store(settings["bucket"], **keywords)


def transfer(
    store: Any,
    settings: dict[str, Any],
    descriptor: int,
    key: str,
    size: int,
    headers: dict[str, str],
    tags: dict[str, str],
) -> str:
    """Send one open file; returns the ETag as the server said it, without quotes."""
    create = settings["no_overwrite"]
    answer = obstore.put(
        store,
        key,
        Path(f"{FOLDER}/{descriptor}") if FOLDER else io.FileIO(descriptor, closefd=False),
        attributes=headers,
        tags=tags or None,
        mode="create" if create else "overwrite",
        use_multipart=size > settings["part_bytes"] and not create,
        chunk_size=settings["part_bytes"],
        max_concurrency=PARTS_AT_ONCE,
    )
    return (answer["e_tag"] or "").strip('"')


def describe(error: Exception) -> tuple[str, str]:
    """Return a code (the server's, or one of ours in lower case) and a one-line message."""
    text = str(error)
    code, message, status = CODE.search(text), MESSAGE.search(text), _STATUS.search(text)
    if isinstance(error, exceptions.AlreadyExistsError):
        return "PreconditionFailed", "the key exists already"
    if code:
        return code[1], message[1] if message else ""
    if "incorrectly configured region" in text:  # how the library tells of a redirect, whose answer it does not read
        return "PermanentRedirect", ""
    if status:
        return status[1], f"the server answered {status[1]}"
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return "file", (error.strerror or text).split("\n")[0][:200]
    if isinstance(error, exceptions.GenericError):
        return "network", "timed out" if "imedOut" in text or "Timeout" in text else "the connection broke"
    return "other", f"{type(error).__name__}: {text.splitlines()[0][:200] if text else ''}"


def run(
    settings: dict[str, Any], tasks: "queue.SimpleQueue[list[Any]]", gate: ByteGate, store: Any, root: Root | None
) -> None:
    """Carry tasks for ever, one outcome line each."""
    while True:
        number, path, key, size, headers, tags, seen = tasks.get()
        held = min(size, (PARTS_AT_ONCE + 1) * settings["part_bytes"])
        gate.enter(held)
        try:
            descriptor = open_file(root, path, seen)
            try:
                etag = transfer(store, settings, descriptor, key, size, headers, tags)
            finally:
                os.close(descriptor)
            outcome: tuple[str | None, str, str] = etag, "", ""
        except Exception as error:  # noqa: BLE001 - reported as the task's outcome
            outcome = None, *describe(error)
        finally:
            gate.leave(held)
        report(number, *outcome)


def begin(settings: dict[str, Any], root: Root | None) -> Callable[[list[Any]], None]:
    """Open the store and start the threads; returns what takes a task."""
    store = open_store(settings)
    tasks: queue.SimpleQueue[list[Any]] = queue.SimpleQueue()
    gate = ByteGate(BUDGET_BYTES)
    for _ in range(settings["workers"]):
        threading.Thread(target=run, args=(settings, tasks, gate, store, root), daemon=True).start()
    return tasks.put


if __name__ == "__main__":
    serve(begin, describe)
