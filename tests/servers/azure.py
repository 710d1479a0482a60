"""Azurite, Microsoft's own emulator of Azure's blobs, on loopback.

It comes by npm: ``npm install --prefix ~/.cache/lading-azurite azurite@3.37.0``; LADING_AZURITE names another program.
"""

import base64
import hashlib
import hmac
import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from lading.testing.s3_server import free_port

ACCOUNT = "devstoreaccount1"  # that of every Azurite, with its published key
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
PLACES = (".cache/lading-azurite/node_modules/.bin/azurite-blob",)
# Read at import: tests have a home of their own.
PROGRAM = os.environ.get("LADING_AZURITE") or next(
    (str(Path.home() / place) for place in PLACES if (Path.home() / place).exists()), shutil.which("azurite-blob")
)


def missing() -> str | None:
    """Return why it cannot run here, or None."""
    return None if PROGRAM else "not installed: azurite (tests/servers/azure.py says how)"


@dataclass(frozen=True)
class Azure:
    """The running emulator."""

    endpoint: str

    def environment(self) -> dict[str, str]:
        return {"AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": KEY}

    def make_container(self, name: str) -> None:
        when = formatdate(usegmt=True)
        text = (
            "PUT" + "\n" * 12 + f"x-ms-date:{when}\nx-ms-version:2021-08-06\n/{ACCOUNT}/{ACCOUNT}/{name}\n"
            "restype:container"
        )
        digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
        headers = {
            "x-ms-date": when,
            "x-ms-version": "2021-08-06",
            "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
            "Content-Length": "0",
        }
        address = f"{self.endpoint}/{name}?restype=container"
        urllib.request.urlopen(urllib.request.Request(address, method="PUT", headers=headers)).close()


@contextmanager
def serve(directory: Path) -> Iterator[Azure]:
    """Run it for the block."""
    assert PROGRAM
    port = free_port()
    process = subprocess.Popen(
        [PROGRAM, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck",
         "--silent", "--disableTelemetry"],
        cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(300):
            with suppress(urllib.error.HTTPError):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
                except urllib.error.HTTPError:
                    break  # it answers
                except OSError:
                    time.sleep(0.1)
        yield Azure(f"http://127.0.0.1:{port}/{ACCOUNT}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
