"""A cap on the bytes per second, by a proxy on loopback that every engine sends through.

Input: a rate or a timetable. Output: the proxy's address; how many bytes
passed, and when the last one did.
Invariant: TLS stays end to end: the proxy sees a CONNECT and then only
ciphertext. A plain http endpoint on loopback, which clients reach without a
proxy, is given another port: the same bytes go through here.

One token bucket for all connections, filled continuously; what is capped is
what leaves this machine.
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from lading.core.errors import LadingError, UsageError
from lading.objectstore.network import find_proxy
from lading.objectstore.rate_schedule import RateSchedule
from lading.objectstore.target import Target

BLOCK = 64 << 10
BURST_SECONDS = 0.1


def _minute_now() -> int:
    now = time.localtime()
    return now.tm_hour * 60 + now.tm_min


class TokenBucket:
    """Tokens for bytes; ``take`` waits for its turn. For one event loop."""

    def __init__(self, rate: Callable[[], int | None]) -> None:
        self._rate = rate
        self._due = 0.0  # when everything admitted so far has been paid for

    async def take(self, count: int) -> None:
        """Wait until ``count`` bytes may pass."""
        rate = self._rate()
        if rate is None:
            return
        now = time.monotonic()
        self._due = max(self._due, now - BURST_SECONDS) + count / rate
        if self._due > now:
            await asyncio.sleep(self._due - now)


class Throttle:
    """The running proxy; use as a context manager."""

    def __init__(
        self, timetable: RateSchedule, endpoint: str | None, *, minute: Callable[[], int] = _minute_now
    ) -> None:
        self._bucket = TokenBucket(lambda: timetable.rate(minute()))
        parts = urlsplit(endpoint) if endpoint else None
        self._plain = (parts.hostname or "", parts.port or 80) if parts and parts.scheme == "http" else None
        host = (parts.hostname if parts else None) or "s3.amazonaws.com"
        if not self._plain and find_proxy("https", host):
            raise UsageError(
                "--bandwidth sends through a proxy of its own, and HTTPS_PROXY asks for another; unset HTTPS_PROXY, "
                f"or add {host} to NO_PROXY where it can be reached directly, or leave --bandwidth out"
            )
        self.sent_bytes = 0
        self.moved = time.monotonic()
        self.port = 0
        self._ending = False
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="throttle", daemon=True)

    def __enter__(self) -> "Throttle":
        self._thread.start()
        self._ready.wait(10)
        if not self.port:
            raise LadingError("the bandwidth cap cannot listen on this machine's loopback")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def through(self, target: Target) -> Target:
        """Return ``target`` as an engine must see it to send through here."""
        address = f"http://127.0.0.1:{self.port}"
        return replace(target, endpoint=address) if self._plain else replace(target, proxy=address)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            listener = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=BLOCK))
            self.port = int(listener.sockets[0].getsockname()[1])
        finally:
            self._ready.set()
        self._loop.run_forever()
        listener.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        self._ending = True
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Connect one client to where it wants to go and pass bytes both ways."""
        up_writer = None
        try:
            if self._plain:
                up_reader, up_writer = await asyncio.open_connection(*self._plain, limit=BLOCK)
            else:
                head = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)
                host, _, port = head[1].decode("ascii").rpartition(":")
                if head[0] != b"CONNECT" or not port.isdigit():
                    writer.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                    return
                up_reader, up_writer = await asyncio.open_connection(host.strip("[]"), int(port), limit=BLOCK)
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(
                self._pass(reader, up_writer, capped=True), self._pass(up_reader, writer, capped=False)
            )
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            pass  # the client sees its connection end, as without a proxy
        finally:
            for stream in (writer, up_writer):
                if stream is not None:
                    await self._close(stream)

    async def _close(self, stream: asyncio.StreamWriter) -> None:
        """Close one side, with what it still holds; at our end without, which a silent peer never takes."""
        if self._ending:
            stream.transport.abort()
        stream.close()
        try:
            await stream.wait_closed()
        except OSError:
            pass  # it broke instead
        except asyncio.CancelledError:
            stream.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, capped: bool) -> None:
        while block := await reader.read(BLOCK):
            if capped:
                await self._bucket.take(len(block))
                self.sent_bytes += len(block)
            self.moved = time.monotonic()
            writer.write(block)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
