"""What the child processes of engines share (``child_engine.py`` starts and feeds them).

Input: on stdin a JSON line of settings, then one JSON array a line: ``[number, path, key, size, …, seen]``. Output: on
stdout one JSON array a line: ``[number, etag or null, code, message, operation]``, ``code`` empty for success.
Invariant: files are opened as ``Target.open`` does, below the descriptor of the root that the parent left; at the end
of stdin (its parent closed it or died) a child is gone at once, whatever is in flight.
"""

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lading.core.opening import Root, SeenFile, descriptor_folder, hold_plain, open_plain
from lading.core.startup import collect_seldom

# Where this process opens what a descriptor stands for, as often as it likes; None without /proc.
FOLDER = "/proc/self/fd" if descriptor_folder() else None
CODE = re.compile(r"<Code>([A-Za-z0-9.]+)</Code>")
MESSAGE = re.compile(r"<Message>([^<\n]{1,200})")


def open_file(root: Root | None, path: str, seen: Sequence[int] | None) -> int:
    """Return a descriptor of a file, as ``Target.hold`` or, without /proc, ``Target.open``."""
    expected = SeenFile(*seen) if seen else None
    if root is None:
        return hold_plain(path, expected) if FOLDER else open_plain(path, expected)
    return root.hold(path, expected) if FOLDER else root.open(path, expected)


def report(number: int, etag: str | None, code: str = "", message: str = "", operation: str = "") -> None:
    """Tell the parent what became of a task; number -1: nothing can be sent at all."""
    # One write of less than a pipe's atomic 4,096 bytes: lines of many threads stay whole.
    row = [number, etag and etag[:256], code[:100], message[:300], operation[:100]]
    os.write(sys.stdout.fileno(), json.dumps(row).encode() + b"\n")


def serve(
    begin: Callable[[dict[str, Any], Root | None], Callable[[list[Any]], None]],
    describe: Callable[[Exception], tuple[str, str]],
) -> None:
    """Hand each line of stdin to what ``begin`` returns for the settings, until stdin ends."""
    # Slurm sends these to all processes of a step: the parent hears them too, and decides what is done then.
    for heard in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(heard, signal.SIG_IGN)
    collect_seldom()
    stdin = sys.stdin.buffer
    settings = json.loads(stdin.readline())
    root = None
    if settings["root"]:
        path, follow, descriptor = settings["root"]
        root = Root(path, follow=follow, descriptor=descriptor)
    try:
        take = begin(settings, root)
    except Exception as error:  # noqa: BLE001 - the parent turns it into a sentence
        report(-1, None, *describe(error))
        os._exit(1)
    for line in stdin:
        take(json.loads(line))
    os._exit(0)
