"""The corpus of hostile names is what it promises to be, and this file system takes it."""

from pathlib import Path

from tests import hostile_names


def test_each_name_is_one_component_and_there_are_enough() -> None:
    names = hostile_names.NAMES
    assert len(names) == len(set(names)) >= 120
    assert len(hostile_names.KINDS) >= 12
    for name in names:
        assert 1 <= len(name) <= 255, name
        assert b"/" not in name, name
        assert b"\0" not in name, name
        assert name not in (b".", b".."), name
    contents = {hostile_names.content(path) for path in hostile_names.paths()}
    assert len(contents) == len(hostile_names.paths())


def test_a_tree_of_them_is_written_and_read_back(tmp_path: Path) -> None:
    made = hostile_names.make_tree(tmp_path / "tree")
    assert len(made) == 2 * len(hostile_names.NAMES) + 1
    assert hostile_names.read_tree(tmp_path / "tree") == made
