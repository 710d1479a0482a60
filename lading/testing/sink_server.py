"""Start the sink server of ``sink_server.c``: compiled on first use, on loopback, for one block.

Input: optional fault rules and objects that are there from the start. Output: a running server.
Invariant: needs only a C compiler; nothing is written outside ``build/`` and the given directory.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lading.testing.certificates import make_certificates

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build"


def missing() -> str | None:
    """Return why the sink cannot run here, or None."""
    return None if shutil.which("cc") or shutil.which("gcc") else "not installed: a C compiler (cc)"


def compile_sink(*, tls: bool = False) -> Path:
    """Return the server program, built when it is absent or older than its source; ``tls`` needs OpenSSL's headers."""
    source, program = HERE / "sink_server.c", BUILD / ("sink-tls" if tls else "sink")
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(exist_ok=True)
        fresh = BUILD / f"{program.name}.{os.getpid()}"
        compiler = shutil.which("cc") or "gcc"
        command = [compiler, "-O3", "-std=gnu11", "-pthread", "-o", str(fresh), str(source)]
        subprocess.run([*command, *(["-DSINK_TLS", "-lssl", "-lcrypto"] if tls else [])], check=True)
        fresh.replace(program)
    return program


@dataclass(frozen=True)
class Sink:
    """A running sink: its endpoint, its request log, its process, and who vouches for it where it speaks TLS."""

    endpoint: str
    log: Path | None
    pid: int
    authority: Path | None = None

    def environment(self) -> dict[str, str]:
        """Return the variables by which any AWS client reaches it (signatures are not checked)."""
        trust = dict.fromkeys(("AWS_CA_BUNDLE", "SSL_CERT_FILE"), str(self.authority)) if self.authority else {}
        return {
            **trust,
            "AWS_ACCESS_KEY_ID": "sink",
            "AWS_SECRET_ACCESS_KEY": "sink",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def requests(self) -> list[tuple[str, int, str]]:
        """Return (method, status, "bucket/key" percent-encoded) of every request so far."""
        if self.log is None:
            raise ValueError("the sink was started without a log")
        rows = (line.split(" ") for line in self.log.read_text().splitlines())
        return [(row[1], int(row[2]), row[5]) for row in rows]


def cpu_seconds(pid: int) -> float:
    """Return the CPU time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serve(
    directory: Path, *, faults: Iterable[str] = (), preload: Path | None = None, log: bool = False, tls: bool = False
) -> Iterator[Sink]:
    """Run a sink for the block; ``faults`` are rule lines as ``sink_server.c`` describes them."""
    command = [str(compile_sink(tls=tls)), "--port", "0"]
    authority = None
    if tls:
        authority, certificate, key = make_certificates(directory)
        command += ["--certificate", str(certificate), "--key", str(key)]
    rules = list(faults)
    if rules:
        (directory / "faults").write_text("".join(f"{rule}\n" for rule in rules))
        command += ["--faults", str(directory / "faults")]
    if preload:
        command += ["--preload", str(preload)]
    if log:
        command += ["--log", str(directory / "sink.log")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        scheme = "https" if tls else "http"
        yield Sink(f"{scheme}://127.0.0.1:{port}", directory / "sink.log" if log else None, process.pid, authority)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
