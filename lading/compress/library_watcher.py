"""The process that ``library_watch`` starts: ends its parent when that says nothing for too long.

Input: pid and seconds as arguments; on stdin names of files, or nothing as a sign of life, each ended by a zero byte.
Output: one sentence on stderr, and SIGKILL for the parent.
Invariant: runs on the standard library alone. It ends when its stdin does, so it outlives nobody.
"""

import os
import select
import signal
import sys
import time

BEAT = 1.0


def watch(parent: int, limit: float) -> None:
    """Return when stdin ends; end the parent after ``limit`` silent seconds in which this process ran."""
    name, silent, rest = b"", 0.0, b""
    while silent < limit:
        begun = time.monotonic()
        if select.select([0], [], [], BEAT)[0]:
            data = os.read(0, 1 << 16)
            if not data:
                return
            *names, rest = (rest + data).split(b"\0")
            name = [name, *filter(None, names)][-1]
            silent = 0.0
        else:
            # Much longer than asked for: the whole job was suspended.
            silent += min(time.monotonic() - begun, 2 * BEAT)
    shown = ascii(os.fsdecode(name))
    sentence = (
        f"{shown}: the library that reads it has not come back for {limit:.0f} s; "
        "restore the file or leave it out, then run again\n"
    )
    os.write(2, sentence.encode())
    os.kill(parent, signal.SIGKILL)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the parent decides
    watch(int(sys.argv[1]), float(sys.argv[2]))
