"""Independent answers: what a tree holds and what a bucket holds, by the plainest means."""

import hashlib
import json
import os
import stat
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lading.tree.size_tree import DIRECTORY, FlatTree, encode_node


def size_tree(path: str, name: str) -> list[Any]:
    """The nested list of find.json, by recursion over ``os.scandir``."""
    children = []
    for entry in os.scandir(path):
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode):
            children.append(size_tree(entry.path, entry.name))
        elif stat.S_ISREG(status.st_mode):
            children.append([entry.name, 1, status.st_size])
        elif stat.S_ISLNK(status.st_mode):
            children.append([entry.name, 2, 0])
        else:
            children.append([entry.name, -1, 0])
    children.sort(key=lambda child: (child[1], child[0]))
    return [name, 0, sum(child[2] for child in children), *children]


def find_json(root: Path) -> bytes:
    """The exact bytes of find.json for ``root`` with default settings."""
    tree = size_tree(str(root), os.path.basename(os.path.abspath(root)))
    return (json.dumps(tree, separators=(",", ":")) + "\n").encode("ascii")


def files(root: Path) -> dict[str, tuple[int, str]]:
    """Relative path → (size, MD5) of every regular file below ``root``."""
    found = {}
    for folder, _, names in os.walk(os.fsencode(root)):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            with open(path, "rb") as stream:
                content = stream.read()
            relative = os.fsdecode(os.path.relpath(path, os.fsencode(root)))
            found[relative] = (len(content), hashlib.md5(content).hexdigest())
    return found


def objects(client: Any, bucket: str, prefix: str = "") -> dict[str, tuple[int, str]]:
    """Key → (size, MD5 of the bytes that a GET returns)."""
    found = {}
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for item in page.get("Contents", []):
            body = client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
            found[item["Key"]] = (len(body), hashlib.md5(body).hexdigest())
    return found


def flat_tree(node: list[Any]) -> FlatTree:
    """The flat form of a nested list, by recursion (shallow trees only)."""
    types, sizes, ends, offsets, names = array("b"), array("q"), array("q"), array("q", [0]), bytearray()

    def add(item: list[Any]) -> None:
        index = len(types)
        types.append(item[1]), sizes.append(item[2]), ends.append(0)
        names.extend(item[0].encode("utf-8", "surrogateescape"))
        offsets.append(len(names))
        for child in item[3:]:
            add(child)
        ends[index] = len(types)

    add(node)
    return FlatTree(types, sizes, ends, bytes(names), offsets)


def encode_tree(tree: FlatTree) -> Iterator[str]:
    """Yield find.json piece by piece; the pieces joined equal ``json.dumps`` of the nested lists, plus a newline."""
    stops: list[int] = []
    for node in range(len(tree)):
        closing = 0
        while stops and node >= stops[-1]:
            stops.pop()
            closing += 1
        separator = "," if node else ""
        if tree.types[node] == DIRECTORY:
            stops.append(tree.ends[node])
            yield f"{']' * closing}{separator}{encode_node(tree, node)}"
        else:
            yield f"{']' * closing}{separator}{encode_node(tree, node)}]"
    yield "]" * len(stops) + "\n"
