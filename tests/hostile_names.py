"""Names that break programs: one corpus for every test that carries names from end to end.

Input: nothing. Output: ``KINDS`` (names by what is odd about them), ``NAMES``
(all of them, sorted), and helpers that put them into a directory.
Invariant: each name is one component that Linux accepts (1 to 255 bytes, no
``/`` and no NUL, not ``.`` or ``..``), no two are equal, and the content made
for a name is found nowhere else, so that a swap of two files is noticed.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

KINDS: Mapping[str, tuple[bytes, ...]] = {
    "blanks": (
        b" ", b"  ", b" leading", b"trailing ", b"in side", b"\ttab first", b"tab\tinside", b"tab last\t",
        "\u00a0nbsp\u00a0".encode(), "\u3000ideographic".encode(), "\u200bzero width".encode(), "\ufeffbom".encode(),
    ),
    "control": (
        b"\n", b"\nnewline first", b"newline last\n", b"new\nline", b"two\n\nlines", b"carriage\rreturn", b"crlf\r\n",
        b"\x01start", b"bell\x07", b"back\x08space", b"\x0bvertical", b"form\x0cfeed", b"escape\x1b[31mred",
        b"\x1b]0;title\x07", b"unit\x1fseparator", b"delete\x7f", "c1\u0085next".encode(), "csi\u009b31m".encode(),
        "line\u2028separator".encode(), "paragraph\u2029separator".encode(),
    ),
    "bidi": (
        "\u202egnp.exe".encode(), "a\u202db".encode(), "\u2066isolate\u2069".encode(), "\u200fmark".encode(),
        "\u05e9\u05dc\u05d5\u05dd.txt".encode(), "\u0645\u0644\u0641".encode(),
    ),
    "no UTF-8": (
        b"\xff", b"\xfe\xff", b"latin-\xe9.bin", b"\x80", b"\xc0\xae\xc0\xae", b"\xed\xa0\x80surrogate",
        b"\xf4\x90\x80\x80", b"cut\xc3", b"\xe3\x81", b"eucjp-\xc6\xfc\xcb\xdc", b"sjis-\x93\xfa\x96\x7b",
        b"_\xff_2024-05-27_16-07-59", b"mixed-\xc3\xa9-\xe9",
    ),
    "unicode": (
        "na\u00efve-composed".encode(), "nai\u0308ve-decomposed".encode(), "\u00e9".encode(), "e\u0301".encode(),
        "\u212b".encode(), "\u00c5".encode(), "A\u030a".encode(), "\ufb01ligature".encode(),
        "\u65e5\u672c\u8a9e.txt".encode(),
        "\ud55c\uae00".encode(), "\u1112\u1161\u11ab".encode(), "\U0001f9e0".encode(),
        "\U0001f468\u200d\U0001f52c".encode(),
        "\U0001f1e9\U0001f1ea".encode(), "\u0130stanbul".encode(), "stra\u00dfe".encode(), b"STRASSE",
        ("z" + "\u0300" * 40 + "algo").encode(), "\uff0ffullwidth slash".encode(), "\uff0e\uff0e".encode(),
        "\ufffd".encode(), "\ufffe".encode(), "\U0010ffff".encode(), "\ue000private".encode(),
    ),
    "shell": (
        b"-rf", b"--help", b"-", b"--", b"-n", b"-e x", b"quote'single", b'quote"double', b"`id`", b"$(id)", b"$HOME",
        b"${HOME}", b"; echo foo", b"a&b|c", b"a&&b", b"> out", b"< in", b"!history", b"~", b"~root", b"back\\slash",
        b"back\\", b"\\n", b"#comment", b"a #b", b"(paren)", b"^caret", b"%s%n", b"%(x)s", b"$$(make)", b"$@",
    ),
    "glob": (
        b"*", b"**", b"?", b"what?", b"star*", b"[set]", b"[!a]", b"[", b"]", b"{a,b}", b"{brace}", b"*.bin", b"[[]",
    ),
    "url": (
        b"percent%20", b"%", b"%2F", b"%2e%2e", b"%00", b"%ff", b"%2Egit", b"plus+", b"a+b c", b"question?x=1&y=2",
        b"hash#1", b"at@home", b"equals=1", b"comma,semi;colon:", b"s3:", b"http:", b"c:", b"C:\\x", b"&amp;", b"&#10;",
        b"<tag>", b"<img src=x onerror=alert(1)>", b"]]>", b"{{7*7}}", b"{id}",
    ),
    "dots": (
        b"...", b"....", b"..two", b".hidden", b"trailing.", b"trailing..", b"trailing. ", b". .", b"a..b", b".a.",
        b"many.dots.in.a.nii.gz", b"x.tar..gz", b"a.", b"x.b_c.gz",
    ),
    "git": (
        b".git", b".GIT", b".Git", b".git.", b".git ", b".git...", b".git. .", b"git~1", b"GIT~1", b"git~2",
        b".git::$INDEX_ALLOCATION", b".git:x", ".g\u200cit".encode(), ".gi\u200dt".encode(), ".\ufeffgit".encode(),
        "\u200e.git".encode(), ".git\u206f".encode(), b".gitmodules", b".GITMODULES", b".gitmodules ", b"gitmod~1",
        b"GITMOD~4", b"gi7eba~1", ".gitmodule\u200cs".encode(), b".gitattributes", b".gitAttributes", b"gitatt~1",
        b"gi7d29~1", b".gitignore", b".GITIGNORE", b"gitign~1", b"gi250a~1", b".mailmap", b".gitkeep", b".git-x",
        b".gitx", b"HEAD", b"refs", b"objects", b"a.lock", b"@", b"@{u}", b"^{}", b":(literal)x", b":", b":!x",
    ),
    "programs": (
        b".datalad", b".mirror", b".noannex", b".annex", b".lading", b".lading-work-x", b".lading-restore-x",
        b"compress.json", b"manifest.jsonl.zst", b"journal.jsonl", b"find.json", b".zattrs", b".DS_Store", b".nfs0001",
        b".snapshot", b".zfs", b"lost+found", b"__init__.py", b"core",
    ),
    "reserved elsewhere": (
        b"CON", b"con.txt", b"PRN", b"AUX", b"NUL", b"COM1", b"LPT1", b"CONIN$", b"desktop.ini", b"Thumbs.db",
        b"a:b", b'a"b', b"a<b>c", b"a|b",
    ),
    "case": (b"Case", b"case", b"CASE", b"cAsE"),
    "data": (
        b"null", b"None", b"true", b"NaN", b"0", b"-1", b"1e999", b"0x10", b"007", b"9" * 40, b"[]", b"{}", b'""',
        b"''",
        b"=cmd|'-C calc'!A0", b"@SUM(1)", b"+1", b"a,b", b'a";b', b"\\u0000", b"\\x00", b"'; DROP TABLE jobs; --",
        b"undefined", b"constructor", b"__proto__",
    ),
    "long": (
        b"x" * 255, "\u00e9".encode() * 127, "\U0001f9e0".encode() * 63, b"\xff" * 255, b" " * 255, b"%" * 255,
        b"." * 255, b"\n" * 255, b"y" * 251 + b".bin", b"-" * 255,
    ),
}  # fmt: skip

NAMES: tuple[bytes, ...] = tuple(sorted(name for names in KINDS.values() for name in names))


def content(path: bytes) -> bytes:
    """Return the bytes of the file at ``path``: of no other path, 0 to 300 of them after the digest."""
    digest = hashlib.sha256(path).digest()
    return digest + digest[:1] * digest[1]


def text(name: bytes) -> str:
    """Return a name as Lading writes it in its artefacts: UTF-8 with surrogate escapes, whatever the locale."""
    return name.decode("utf-8", "surrogateescape")


def paths(names: Iterable[bytes] = NAMES) -> list[bytes]:
    """Return every name as a file at the top, as a directory with a file in it, and as a file in a directory."""
    found = []
    for name in names:
        found += [b"files/" + name, b"folders/" + name + b"/f.bin"]
    deep = [name for name in names if len(name) < 8][:60]
    return [*found, b"/".join([b"deep", *deep, b"f.bin"])]


def is_utf8(name: bytes) -> bool:
    """Tell whether a name is valid UTF-8."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def make_tree(root: Path | bytes, wanted: Iterable[bytes] | None = None) -> dict[bytes, bytes]:
    """Write the files ``wanted`` (default: ``paths()``) below ``root`` by byte paths; return their contents."""
    top = os.fsencode(root)
    made = {}
    for path in paths() if wanted is None else wanted:
        target = top + b"/" + path
        os.makedirs(os.path.dirname(target), exist_ok=True)
        made[path] = content(path)
        with open(target, "wb") as stream:
            stream.write(made[path])
    return made


def read_tree(root: Path | bytes) -> dict[bytes, bytes]:
    """Return the bytes of every regular file below ``root`` by its byte path."""
    top = os.fsencode(root)
    found = {}
    for folder, _, names in os.walk(top):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                with open(path, "rb") as stream:
                    found[os.path.relpath(path, top)] = stream.read()
    return found
