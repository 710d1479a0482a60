"""A tree in sealed memory: the same to its readers, writable by nobody, and no other memory is ever taken for it."""

import json
import os
import subprocess
import sys
from array import array
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from lading.tree.json_reader import ReadTree, read_tree
from lading.tree.sealed_tree import TreeAddress, open_tree, seal_tree
from tests.conftest import REPOSITORY

TEXTS = {
    "empty": '["r",0,0]\n',
    "plain": '["r",0,7,["d\\u00e9",0,5,["a",1,2],["b",1,3]],["x",1,2],["y",2,0]]\n',
    "timed": '["r",0,3,["p",-1,0],["\\udcff",1,3,1700000000123456789]]\n',
    "before 1970": '["r",0,3,["a",1,3,-5]]\n',
}


def columns(found: ReadTree) -> list[object]:
    tree = found.tree
    wide = [tree.types, tree.sizes, tree.ends, tree.offsets, tree.mtimes]
    return [found.sha256, bytes(tree.names), *(None if column is None else list(column) for column in wide)]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_sealed_tree_is_the_tree(text: str, tmp_path: Path) -> None:
    path = tmp_path / "find.json"
    path.write_text(text)
    wanted = read_tree(path)
    given = [read_tree(path)]
    sealed, address = seal_tree(given)
    assert given == [], "who holds the list holds no second copy"
    again = open_tree(address)
    assert again is not None
    for found in (sealed, again):
        assert columns(found) == columns(wanted)
        assert list(found.tree.files()) == list(wanted.tree.files())
        assert [found.tree.name(node) for node in range(len(found.tree))] == [
            wanted.tree.name(node) for node in range(len(wanted.tree))
        ]


def test_another_process_reads_it_and_nobody_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "find.json"
    path.write_text(TEXTS["timed"])
    sealed, address = seal_tree([read_tree(path)])
    code = (
        "import json, sys; from lading.tree.sealed_tree import *\n"
        "found = open_tree(TreeAddress(*json.loads(sys.argv[1])))\n"
        "print(found.sha256, found.tree.name(2).encode('utf-8', 'surrogateescape'), found.tree.mtimes[2])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(astuple(address))],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.stdout == sealed.sha256 + " b'\\xff' 1700000000123456789\n", result.stderr
    with pytest.raises(TypeError):
        sealed.tree.sizes[0] = 1
    held = f"/proc/self/fd/{address.descriptor}"
    with pytest.raises(PermissionError):
        os.write(os.open(held, os.O_RDWR), b"x")
    with pytest.raises(PermissionError):
        os.truncate(held, 0)


def test_no_other_memory_is_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "find.json"
    path.write_text(TEXTS["plain"])
    _, address = seal_tree([read_tree(path)])
    file = (tmp_path / "file").open("w+b")
    file.write(bytes(address.bytes))
    file.flush()
    state = os.fstat(file.fileno())
    pipe, _ = os.pipe()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    wrong: list[TreeAddress] = [
        replace(address, pid=gone.pid),
        replace(address, descriptor=pipe),
        replace(address, inode=address.inode + 1),
        replace(address, nodes=address.nodes + 1),
        # What can change under a reader: a file of the same length, and memory that is not sealed.
        replace(address, descriptor=file.fileno(), device=state.st_dev, inode=state.st_ino),
    ]
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.truncate(loose, address.bytes)
    state = os.fstat(loose)
    wrong.append(replace(address, descriptor=loose, device=state.st_dev, inode=state.st_ino))
    assert [open_tree(one) for one in wrong] == [None] * len(wrong)
    assert open_tree(address) is not None
    file.close()


def test_where_there_is_no_such_memory_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "find.json"
    path.write_text(TEXTS["plain"])
    with monkeypatch.context() as patch:
        patch.delattr(os, "memfd_create")
        with pytest.raises(OSError):
            seal_tree([read_tree(path)])
    assert isinstance(read_tree(path).tree.types, array)
