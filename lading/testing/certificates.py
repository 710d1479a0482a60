"""A certificate authority of our own, and a server's certificate by it, for servers on loopback.

Input: a directory, names of the server. Output: paths of PEM files, valid for two days.
Invariant: nothing is trusted by anybody who is not told the authority's file.
"""

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path


def missing() -> str | None:
    """Return why no certificates can be made here, or None."""
    return None if shutil.which("openssl") else "not installed: openssl"


def make_certificates(directory: Path, names: Iterable[str] = ()) -> tuple[Path, Path, Path]:
    """Return (authority, certificate, key) of a server that is called localhost, 127.0.0.1 or one of ``names``."""
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    certificate, key, request = directory / "server.pem", directory / "server.key", directory / "server.csr"
    settings = directory / "names.cnf"
    called = ["DNS:localhost", "IP:127.0.0.1", *(f"DNS:{name}" for name in names)]
    settings.write_text(f"subjectAltName={','.join(called)}\nbasicConstraints=CA:FALSE\n")

    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", ca_key, "-out", ca, "-days", 2,
            "-subj", "/CN=lading test authority", "-addext", "keyUsage=keyCertSign")  # fmt: skip
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/CN=localhost")
    openssl("x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-out", certificate,
            "-days", 2, "-extfile", settings)  # fmt: skip
    return ca, certificate, key
