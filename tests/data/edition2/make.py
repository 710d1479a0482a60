"""Write the artefacts of an earlier version: every stage of it on small data, packed as one archive.

Input: a checkout of that version with its ``.venv`` (extensions compiled in
place), and the name of the archive. Output: ``artefacts.tar.xz``: the data,
the working directory with all artefacts, and the bucket's objects as files.
Invariant: nothing here is read by the product, and no code of today runs:
the archive holds what the earlier version wrote, byte for byte.

    git worktree add --detach /tmp/earlier db15bb3 && make -C /tmp/earlier setup
    /tmp/earlier/.venv/bin/python tests/data/edition2/make.py /tmp/earlier tests/data/edition2/artefacts.tar.xz
"""

import json
import lzma
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

# Plans, journals and markers hold absolute paths and the server's address: the test puts both where they were.
DIRECTORY = Path("/tmp/lading-edition2")
PORT = 28517
BUCKET = "edition2"
# Whole seconds, so that every archiver keeps them.
WRITTEN = 1_760_000_000


def put(path: Path, content: bytes) -> None:
    """Write a file of a fixed time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (WRITTEN, WRITTEN))


def write_release(top: Path) -> None:
    """Write a release of some directories, odd names, an empty file, an empty directory and a link."""
    for folder in ("spectro/data", "spectro/redux", "zcat"):
        for number in range(4):
            put(top / folder / f"file-{number}", f"{folder} {number}\n".encode() * (200 * (number + 1)))
    put(top / "odd" / "a b", b"space")
    put(top / "odd" / "naïve-日本.txt".encode().decode(), b"text")
    put(top / "odd" / os.fsdecode(b"latin-\xe9\xff.bin"), b"no UTF-8")
    put(top / "odd" / "empty", b"")
    (top / "hollow").mkdir()
    (top / "link").symlink_to("zcat/file-0")


def write_probe(node: Path) -> None:
    """Write an Open Ephys recording of four channels and 600 samples."""
    import numpy as np

    recording = node / "Record Node 101" / "experiment1" / "recording1"
    stream = recording / "continuous" / "Neuropix-PXI-100.ProbeA-AP"
    stream.mkdir(parents=True)
    samples = (np.arange(2400) * 37 % 101 - 50).astype("<i2")
    put(stream / "continuous.dat", samples.tobytes())
    np.save(stream / "sample_numbers.npy", np.arange(600, dtype="<i8"))
    np.save(stream / "timestamps.npy", np.arange(600) / 30_000)
    names = [{"channel_name": f"AP{i + 1}", "bit_volts": 0.195, "units": "uV"} for i in range(4)]
    entry = {"folder_name": f"{stream.name}/", "sample_rate": 30000, "num_channels": 4, "channels": names}
    put(recording / "structure.oebin", json.dumps({"GUI version": "0.6.7", "continuous": [entry]}).encode())


def write_stack(directory: Path) -> None:
    """Write a stack of eight planes of 64 × 64."""
    import numpy as np
    import tifffile

    directory.mkdir(parents=True)
    y, x = np.mgrid[0:64, 0:64]
    for plane in range(8):
        tifffile.imwrite(directory / f"plane_{plane:05d}.tif", (100 + x * 3 + y * plane).astype("uint16"))


def write_sessions(directory: Path) -> Path:
    """Write a probe, a stack and a behaviour folder; returns the list of two sessions."""
    write_probe(directory / "probe")
    write_stack(directory / "stack")
    put(directory / "behavior" / "trials.csv", b"trial,choice\n" + b"".join(b"%d,%d\n" % (n, n % 2) for n in range(50)))
    header = "project_name,platform,subject_id,acq_datetime,s3_bucket,modality0,modality0.source"
    rows = [
        f"Old,ecephys,123454,2024-05-27 16:07:59,{BUCKET},ecephys,{directory / 'probe'}",
        f"Old,behavior,123456,2024-05-29 09:30:00,{BUCKET},behavior,{directory / 'behavior'}",
    ]
    put(directory / "sessions.csv", "\n".join([header, *rows, ""]).encode())
    return directory / "sessions.csv"


class Earlier:
    """The commands of the earlier version, against one server."""

    def __init__(self, checkout: Path, endpoint: str, environment: dict[str, str]) -> None:
        self.checkout = checkout
        self.endpoint = endpoint
        self.work = DIRECTORY / "work"
        self.python = str(checkout / ".venv" / "bin" / "python")
        identity = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
                    for what, value in (("NAME", "Test"), ("EMAIL", "test@example.org"))}  # fmt: skip
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "AWS_"))},
            **environment,
            **identity,
            "PYTHONPATH": str(checkout),
            "PATH": os.pathsep.join([str(checkout / ".venv" / "bin"), os.environ["PATH"]]),
        }

    def run(self, command: list[str], code: int = 0) -> None:
        """Run a command; anything but ``code`` ends the whole."""
        print("+", *command, flush=True)
        found = subprocess.run(command, cwd=self.work, env=self.environment, check=False).returncode
        if found != code:
            sys.exit(f"ended with {found}, not {code}: {command}")

    def make(self, target: str, *more: str, code: int = 0) -> None:
        """Run a make target as its users did."""
        data, venv = DIRECTORY / "data", self.checkout / ".venv"
        self.run(
            ["make", "--no-print-directory", "-f", str(self.checkout / "makefile"), "-o", f"{venv}/.ready",
             f"venv={venv}", "here=1", target, f"root={data}", f"release={data / 'dr1'}", f"bucket=s3://{BUCKET}",
             f"endpoint={self.endpoint}", 'remap={"spectro/data": "raw"}', "min_batch=3k", "max_batch=9k",
             "max_workers=4", "workers=2", *more],
            code,
        )  # fmt: skip

    def jobs(self, *arguments: str) -> None:
        """Run a command of the job lists."""
        self.run([self.python, "-m", "jobs", *arguments])

    def portal(self, source: Path) -> None:
        """Serve the portal, hand it a session, and wait until that is done."""
        import httpx

        home = self.work / "portal"
        command = [self.python, "-m", "jobs", "serve", "--listen", f"127.0.0.1:{PORT + 1}", "--home", str(home)]
        command += ["--endpoint-url", self.endpoint]
        task = {"behavior": {"job_settings": {"input_source": str(source)}}}
        job = {"job_type": "default", "project_name": "Old", "platform": "behavior", "subject_id": "123457",
               "acq_datetime": "2024-05-30T10:00:00", "s3_bucket": BUCKET, "modalities": ["behavior"],
               "tasks": {"modality_transformation_settings": task}}  # fmt: skip
        process = subprocess.Popen(command, cwd=self.work, env=self.environment)
        client = httpx.Client(base_url=f"http://127.0.0.1:{PORT + 1}", timeout=60, trust_env=False)
        try:
            for _ in range(600):
                try:
                    client.get("/openapi.json")
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            answer = client.post("/api/v2/submit_jobs", json={"upload_jobs": [job]})
            print(answer.status_code, answer.text)
            for _ in range(600):
                found = client.get("/api/v1/get_job_status_list", params={"page_limit": 500}).json()
                states = [job["job_state"] for job in found["data"]["job_status_list"]]
                if states and not {"queued", "running"} & set(states):
                    break
                time.sleep(0.2)
            print(states)
            if states != ["success"]:
                sys.exit(f"the portal's job ended {states}")
        finally:
            process.terminate()
            process.wait(30)


def go_the_whole_way(earlier: Earlier, s3: Path, sessions: Path) -> None:
    """Run every stage that leaves an artefact."""
    for target in ("find.json", "batch.json"):
        earlier.make(target, "find_flags=--arrays")
    earlier.make("upload", "max_batches=1")
    earlier.make("upload")
    # An object is lost, found missing, and sent again: records of a later revision.
    (s3 / BUCKET / "dr1" / "zcat" / "file-2").unlink()
    earlier.make("verify", code=2)  # make says 2 for whatever a command says
    earlier.make("upload")
    earlier.make("verify")
    earlier.make("mirror")
    data = DIRECTORY / "data" / "sessions"
    earlier.jobs("compress", str(data / "probe"), "probe", "--kind", "ephys")
    earlier.jobs("compress", str(data / "stack"), "stack", "--kind", "imaging")
    earlier.jobs("run", str(sessions), "--endpoint-url", earlier.endpoint, "--state", "sessions")
    earlier.portal(data / "behavior")


def main() -> None:
    """Write and pack."""
    checkout, archive = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    sys.path.insert(0, str(checkout))
    from demo import server

    shutil.rmtree(DIRECTORY, ignore_errors=True)
    (DIRECTORY / "work").mkdir(parents=True)
    write_release(DIRECTORY / "data" / "dr1")
    sessions = write_sessions(DIRECTORY / "data" / "sessions")
    server.free_port = lambda: PORT
    with server.serve(DIRECTORY / "s3") as running:
        running.make_bucket(BUCKET)
        earlier = Earlier(checkout, running.endpoint, running.environment())
        go_the_whole_way(earlier, running.directory, sessions)
    # GNU tar keeps nanoseconds, empty directories and names that are no UTF-8.
    command = ["tar", "-C", str(DIRECTORY), "--format=posix", "--sort=name", "--owner=0", "--group=0", "-cf", "-", "."]
    packed = subprocess.run(command, check=True, capture_output=True).stdout
    archive.write_bytes(lzma.compress(packed, preset=9 | lzma.PRESET_EXTREME))
    print(f"{archive}: {archive.stat().st_size} bytes, {len(packed)} unpacked")
    shutil.rmtree(DIRECTORY)


if __name__ == "__main__":
    main()
