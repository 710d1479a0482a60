"""Messages to people and pings to a watchdog: the one module that knows apprise.

Input: addresses, a title, a text. Output: sentences on what did not get through, none of which names an address.
Invariant: bounded in time, raises nothing, and what is sent holds no secret: URLs lose credentials and queries, keys
and the values of secret variables are struck out. An address may stand in the environment (``env:NAME``) or in a file
(``file:PATH``), so that a list of releases can be shown.
"""

import logging
import os
import re
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from lading.core.bounded import read_bounded
from lading.core.command_line import blot_secrets

SECONDS = 15.0  # for all notifiers of one message together
PING_SECONDS = 5.0
MOST_ADDRESS = 4096
MOST_TEXT = 20_000
START, DONE, FAIL = "/start", "", "/fail"
_QUERY = re.compile(r"(\w+://[^\s?]+)\?[^\s]+")
_KEY_ID = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}\b")
_SIGNED = re.compile(r"(?i)\b(x-amz-[a-z-]+|authorization|signature|token|secret|password)([=:]\s*)\S+")


def redact(text: str, secrets: Sequence[str] = ()) -> str:
    """Return a text without credentials, queries of URLs, key ids, and the given secrets."""
    for secret in secrets:
        if len(secret) > 3:
            text = text.replace(secret, "…")
    return _SIGNED.sub(r"\1\2…", _KEY_ID.sub("…", _QUERY.sub(r"\1?…", blot_secrets(text))))


def resolve_address(text: str) -> str:
    """Return the address that a setting means; ``ValueError`` with a sentence that does not show it."""
    kind, _, rest = text.partition(":")
    if kind == "env":
        if not os.environ.get(rest):
            raise ValueError(f"the variable {rest} is not set")
        return os.environ[rest].strip()
    if kind == "file" and not rest.startswith("//"):
        try:
            return read_bounded(Path(rest).expanduser(), MOST_ADDRESS).decode("utf-8").strip()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"the file {rest} cannot be read ({getattr(error, 'strerror', '') or 'no text'})"
            ) from None
    return text.strip()


def notify(addresses: Sequence[str], title: str, text: str, *, seconds: float = SECONDS) -> list[str]:
    """Send a message to every address; returns a sentence for each that did not take it."""
    resolved: list[str] = []
    failed: list[str] = []
    for number, given in enumerate(dict.fromkeys(addresses), 1):
        try:
            resolved.append(resolve_address(given))
        except ValueError as error:
            failed.append(f"notifier {number}: {error}; the message was not sent there")
    title, text = redact(" ".join(title.split()), resolved), redact(text, resolved)[:MOST_TEXT]

    def call(number: int, address: str) -> Callable[[], str]:
        return lambda: _send(number, address, title, text)

    calls = [call(number, address) for number, address in enumerate(resolved, 1)]
    return failed + _bounded(calls, seconds, "notifier {} did not answer in time")


def _send(number: int, address: str, title: str, text: str) -> str:
    """Send by one notifier; returns what went wrong."""
    import apprise  # here: it takes a second to load, and is an extra

    log = logging.getLogger("apprise")  # its records name addresses
    log.setLevel(logging.CRITICAL + 1)
    log.propagate = False
    notifier = apprise.Apprise.instantiate(address, suppress_exceptions=True)
    if notifier is None:
        return f"notifier {number} is not an address that apprise knows; compare it with apprise's list of services"
    sender = apprise.Apprise()
    sender.add(notifier)
    if sender.notify(title=title, body=text, body_format=apprise.NotifyFormat.TEXT):
        return ""
    return f"notifier {number} ({notifier.service_name}) did not take the message"


def ping(address: str, suffix: str = DONE, *, seconds: float = PING_SECONDS) -> list[str]:
    """Call a watchdog's URL: ``/start`` before the work, the URL itself after it, ``/fail`` when it failed."""
    try:
        parts = urlsplit(resolve_address(address))
    except ValueError as error:
        return [f"the ping URL: {error}"]
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ["the ping URL does not begin with http:// or https://"]
    url = urlunsplit(parts._replace(path=parts.path.rstrip("/") + suffix))
    return _bounded([lambda: _call(url, seconds)], seconds, "the ping URL did not answer in time")


def _call(url: str, seconds: float) -> str:
    request = urllib.request.Request(url, headers={"User-Agent": "lading"})  # noqa: S310  # http or https: looked at
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:  # noqa: S310
            answer.read(1024)
            return ""
    except (OSError, ValueError) as error:
        code = getattr(error, "code", None)
        return f"the ping URL answered {code}" if code else "the ping URL cannot be reached"


def _bounded(calls: Sequence[Callable[[], str]], seconds: float, late: str) -> list[str]:
    """Run calls side by side; returns what they say went wrong, and of those that hang that they do."""
    said: list[str | None] = [None] * len(calls)

    def run(number: int) -> None:
        try:
            said[number] = calls[number]()
        except ImportError as error:
            said[number] = f"the message was not sent: the package {error.name} is missing; install the extra fleet"
        except Exception as error:  # noqa: BLE001  # of a library of a hundred services; its words may hold the address
            said[number] = f"notifier {number + 1} failed ({type(error).__name__})"

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(len(calls))]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        with suppress(RuntimeError):
            thread.join(max(0.0, deadline - time.monotonic()))
    return [late.format(number + 1) if found is None else found for number, found in enumerate(said) if found != ""]
