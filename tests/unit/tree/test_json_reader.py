"""The reader of find.json: the same bytes back at any depth, and every fault with its place."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from lading.core.errors import UsageError
from lading.tree import json_reader as treefile
from lading.tree.json_reader import ReadTree, read_tree
from tests.oracle import encode_tree
from tests.unit.plan.test_planner import TREES, encode

ODD = [
    "root",
    0,
    7,
    ["\udcff", 0, 0],
    ["\ue000", 0, 0],
    ["\U0001f600", 0, 0],
    ['"\\', 1, 7],
    ["\x01\n\x7f", 2, 0],
    ["\u3042", 2, 0],
    ["\udce3\udc81", 2, 0],
]


def dump(node: Any, **options: Any) -> bytes:
    options.setdefault("separators", (",", ":"))
    return (json.dumps(node, **options) + "\n").encode()


@pytest.fixture(params=["compiled", "python"])
def read(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Read bytes by either reader, in blocks of a few bytes so that every seam is met."""
    if request.param == "python":
        monkeypatch.setattr(treefile, "_read_compiled", lambda stream: None)
    else:
        pytest.importorskip("lading.tree._treefile")
    monkeypatch.setattr(treefile, "BLOCK", 7)

    def call(text: bytes) -> ReadTree:
        path = tmp_path / "find.json"
        path.write_bytes(text)
        return read_tree(path)

    return call


def test_same_bytes_back(read: Any) -> None:
    for tree in (ODD, ["", 0, 0], ["r", 0, 3, ["a", 1, 3, -5]], ["r", 0, 1, ["a", 1, 1, 1700000000123456789]]):
        text = dump(tree)
        found = read(text)
        assert "".join(encode_tree(found.tree)).encode() == text
        assert found.sha256 == hashlib.sha256(text).hexdigest()


def test_any_depth(read: Any) -> None:
    depth = 3000
    text = b"".join(b'["d%d",0,5,' % i for i in range(depth)) + b'["f",1,5]' + b"]" * depth + b"\n"
    tree = read(text).tree
    assert len(tree) == depth + 1
    assert "".join(encode_tree(tree)).encode() == text
    assert next(tree.files())[0] == "/".join(f"d{i}" for i in range(1, depth)) + "/f"


def test_other_layouts_of_the_same_json(read: Any) -> None:
    found = read(dump(ODD, indent=1))
    assert "".join(encode_tree(found.tree)).encode() == dump(ODD)
    unescaped = ["é", 0, 1, ["ü", 1, 1]]
    assert "".join(encode_tree(read(dump(unescaped, ensure_ascii=False)).tree)).encode() == dump(unescaped)


@settings(max_examples=200, deadline=None)
@given(content=TREES)
def test_readers_agree_on_trees(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "agree.json"
    path.write_bytes(dump(encode("r", content)))
    with path.open("rb") as stream:
        plain = treefile._Reader(path).read(stream)
    with path.open("rb") as stream:
        compiled = treefile._read_compiled(stream)
    if compiled is None:
        pytest.importorskip("lading.tree._treefile")
    assert compiled == plain
    assert "".join(encode_tree(plain.tree)).encode() == path.read_bytes()


SAMPLE = dump(encode("r", {"a": {"x": (1, 10), "é": (1, 5)}, "b": (1, 3), "c": (2, 0)}))


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_readers_agree_on_damage(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Bytes replaced, dropped or put in: the compiled reader takes nothing that the Python reader refuses."""
    text = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(text) - 1))
        put = data.draw(st.sampled_from([b"", *(bytes([byte]) for byte in b'01-][,"\\\xff a')]))
        text[place : place + data.draw(st.integers(0, 2))] = put
    path = tmp_path_factory.getbasetemp() / "damage.json"
    path.write_bytes(text)
    with path.open("rb") as stream:
        compiled = treefile._read_compiled(stream)
    try:
        with path.open("rb") as stream:
            plain = treefile._Reader(path).read(stream)
    except UsageError as error:
        fault: str | None = str(error)
    else:
        fault = None
        assert compiled in (None, plain)
    if fault is not None:
        assert compiled is None
        assert "(byte " in fault


def test_cut_short_at_every_byte(read: Any) -> None:
    for length in range(len(SAMPLE) - 1):
        with pytest.raises(UsageError, match=rf"column {length + 1} \(byte {length}\): the file is (truncated|empty)"):
            read(SAMPLE[:length])
    assert len(read(SAMPLE[:-1]).tree) == 6


@pytest.mark.parametrize(
    ("text", "places"),
    [
        (b'["r",0,3,["a",1,3],["a",1,0]]', ["column 20 (byte 19): 'a' appears twice"]),
        (b'["r",0,3,["b",1,3],["a",1,0]]', ["column 20 (byte 19): 'a' (type 1) comes after 'b' (type 1)"]),
        (b'["r",0,3,["b",1,3],["a",0,0]]', ["column 20 (byte 19): 'a' (type 0) comes after 'b' (type 1)"]),
        (b'["r",0,4,["b",1,3]]', ["column 1 (byte 0): the directory says 4 bytes, its children sum to 3"]),
        (b'["r",0,4,\n ["b",0,4,\n  ["c",1,3]]]', ["line 2, column 2 (byte 11): the directory says 4", ]),
        (b'["r",0,9,["b",0,4],["b",1,3]]', ["byte 0)", "byte 9)"]),
        (b'["r",0,3,["..",1,3]]', ["'..' is not the name"]),
        (b'["r",0,3,["a/b",1,3]]', ["'a/b' is not the name"]),
        (b'["r",0,3,["",1,3]]', ["'' is not the name"]),
        (b'["r",0,3,["a",7,3]]', ["the type 7"]),
        (b'["r",0,3,["a",1,-3]]', ["impossible size -3"]),
        (b'["r",0,3,["a",1,3,["b",1,0]]]', ["'a' is not a directory"]),
        (b'["r",0,3,["a",1,3,5],["b",1,0]]', ["'b' has no time"]),
        (b'["r",0,3,["\\ud800",1,3]]', ["is not a file name"]),
        (b'["r",0,3,["a",1,3]]]', ["column 20 (byte 19)"]),
        (b'["r",0,0]["s",0,0]', ["follows the end"]),
        (b'["r",0,0]x', ["follows the end"]),
        (b'["r",1,5]', ["the single entry 'r'"]),
        (b'{"format": 1, "root": "/"}', ["column 1 (byte 0): expected a node", '{"format": 1']),
        (b"<html>" + b"x" * 100, ["expected a node"]),
    ],
)  # fmt: skip
def test_faults_have_places(read: Any, text: bytes, places: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        read(text)
    for place in places:
        assert place in str(caught.value)
    assert all("make find.json" in line for line in str(caught.value).split("\n"))


def test_all_faults_at_once_but_not_a_flood(read: Any) -> None:
    text = b'["r",0,0' + b"".join(b',["a",1,0]' for _ in range(100)) + b"]"
    with pytest.raises(UsageError) as caught:
        read(text)
    lines = str(caught.value).split("\n")
    assert len(lines) == 21
    assert "79 more errors" in lines[-1]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is missing; run: make find\.json"):
        read_tree(tmp_path / "find.json")
    with pytest.raises(UsageError, match="is a directory"):
        read_tree(tmp_path)


def test_a_packed_tree_is_the_same_tree(tmp_path: Path) -> None:
    text = dump(ODD)
    plain, packed = tmp_path / "find.json", tmp_path / "find.json.zst"
    plain.write_bytes(text)
    whole = zstandard.ZstdCompressor(write_checksum=True).compress(text)
    packed.write_bytes(whole)
    assert read_tree(packed).sha256 == read_tree(plain).sha256 == hashlib.sha256(text).hexdigest()
    assert "".join(encode_tree(read_tree(packed).tree)).encode() == text
    # Each of these is one sentence: cut short, one bit flipped, no zstd at all, something behind it.
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    for damaged in (b"", whole[:5], whole[: len(whole) // 2], whole[:-6], bytes(flipped), text, whole + b"rest"):
        packed.write_bytes(damaged)
        with pytest.raises(UsageError) as caught:
            read_tree(packed)
        assert "\n" not in str(caught.value)
    # A fault in the text has its place in the text.
    packed.write_bytes(zstandard.ZstdCompressor().compress(text.replace(b'"root",0,7', b'"root",0,8')))
    with pytest.raises(UsageError, match="line 1, column 1 "):
        read_tree(packed)


@pytest.mark.parametrize("time", [b"\0" * 8 + b"0000123456789", b"\0" * 18, b"12345678901234567\0" + b"1"])
def test_a_time_of_other_bytes_than_digits_is_refused(tmp_path: Path, time: bytes) -> None:
    """A search for a sign in a C string finds the byte that ends it, too: the compiled reader took NULs for digits."""
    path = tmp_path / "find.json"
    path.write_bytes(b'["d",0,10,["x",1,10,' + time + b"]]\n")
    with pytest.raises(UsageError, match=r"find\.json"):
        read_tree(path)
