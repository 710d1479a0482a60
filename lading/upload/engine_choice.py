"""Which engines a run has, and how they are started.

Input: the name that the user gave, the target. Output: an ``EngineSet``.
Invariant: an engine that cannot send what is asked for is named, never replaced in silence.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lading.objectstore.manner import unable
from lading.objectstore.network import choose_way
from lading.objectstore.target import Target
from lading.upload.engines.base import Engine
from lading.upload.engines.boto import BotoEngine
from lading.upload.engines.crt import CrtEngine
from lading.upload.engines.multipart import MultipartEngine
from lading.upload.engines.obstore import ObstoreEngine
from lading.upload.engines.reuse import ReuseEngine
from lading.upload.engines.s5cmd import S5cmdEngine
from lading.upload.send_stage import EngineSet
from lading.verification.content_index import ContentIndex

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore


def start_engine(name: str, target: Target) -> Engine | None:
    """Return the engine that carries most files, its process on the way; None for boto3, which shares our client.

    One that cannot send what is asked for is named, and boto3 is taken.
    """
    lacks = unable(name, target.manner, choose_way(target).style, target.endpoint)
    if lacks:
        print(f"note: {lacks}, so the slower boto3 sends the files", file=sys.stderr)
        return None
    if name == "s5cmd":
        sender = S5cmdEngine(target)
        if sender.can_share:
            return sender
        print("note: s5cmd cannot open files through /proc here, so the slower boto3 sends them", file=sys.stderr)
        return None
    if name == "crt":
        client = CrtEngine(target)
        if client.can_share:
            client.load()
            return client
        print("note: crt cannot open files through /proc here, so the slower boto3 sends them", file=sys.stderr)
        return None
    if name == "obstore":
        engine = ObstoreEngine(target)
        engine.load()
        return engine
    return None


def build_engines(
    first: Engine | None,
    target: Target,
    store: "ObjectStore",
    journal: Path,
    resume_bytes: int,
    known: ContentIndex | None = None,
) -> EngineSet:
    """Return the engines of a run. ``known``: content that the server has, and can be asked to copy."""
    second = BotoEngine(target, store)
    # Few at once: each of them sends its parts in parallel.
    huge = MultipartEngine(replace(target, workers=2), store, journal=journal, resume_bytes=resume_bytes)
    reuse = ReuseEngine(target, store, known) if known is not None else None
    return EngineSet(first or BotoEngine(target, store), second, huge, resume_bytes, reuse)
