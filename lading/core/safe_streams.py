"""The one way to a terminal or a log: nothing that a name, a key or a server says can command it.

Input: texts that the program prints. Output: the same on stdout and stderr,
control characters escaped.
Invariant: of what does not print, only newline and tab leave the process; a
character that the stream's encoding lacks is escaped, never an error. Colours
are drawn by rich alone, on texts that went through ``printable``.
"""

import codecs
import locale
import re
import sys
from typing import Any, TextIO, cast

# A cheap test for nearly every text; what it finds is looked at one by one.
_SUSPECT = re.compile(r"[^\n\t -~]")


def printable(text: str) -> str:
    """Return ``text`` fit for one line of a terminal: what does not print (newlines, lone surrogates) is escaped."""
    return text if text.isprintable() else "".join(map(_escape, text))


def escape_controls(text: str) -> str:
    """Return lines fit for a terminal: newlines and tabs stay, what else does not print is escaped."""
    return _SUSPECT.sub(_escape_match, text)


def _escape(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _escape_match(match: "re.Match[str]") -> str:
    return _escape(match[0])


class PlainStream:
    """A text stream that escapes what does not print; everything else is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @property
    def rich_proxied_file(self) -> TextIO:
        """The stream below all wrappers, by the name under which rich asks for what it may draw on."""
        stream: Any = self._stream
        while inner := getattr(stream, "rich_proxied_file", None):
            stream = inner
        return cast(TextIO, stream)

    def write(self, text: str) -> int:
        """Write a text; returns its length."""
        self._stream.write(escape_controls(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write some texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect_streams() -> None:
    """Let stdout and stderr of this process escape what does not print; a second call changes nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or isinstance(stream, PlainStream):
            continue
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding=_encoding(stream), errors="backslashreplace")
        setattr(sys, name, cast(TextIO, PlainStream(stream)))


def _encoding(stream: TextIO) -> str:
    """Return what a terminal of this locale shows; files and pipes get UTF-8, and so do locales that say nothing."""
    if not stream.isatty():
        return "utf-8"
    charset = locale.nl_langinfo(locale.CODESET)
    try:
        return charset if codecs.lookup(charset).name != "ascii" else "utf-8"
    except LookupError:
        return "utf-8"
