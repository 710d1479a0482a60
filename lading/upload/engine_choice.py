"""Which engines a run has, and how they are started.

Input: the name that the user gave, the target. Output: an ``EngineSet``.
Invariant: an engine that cannot send what is asked for is named, never replaced in silence.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lading.core.extras import is_there
from lading.objectstore.manner import unable
from lading.objectstore.network import choose_way
from lading.objectstore.target import Target
from lading.upload.engines.base import Engine
from lading.upload.engines.boto import BotoEngine
from lading.upload.engines.crt import CrtEngine
from lading.upload.engines.multipart import MultipartEngine
from lading.upload.engines.obstore import ObstoreEngine
from lading.upload.engines.reuse import ReuseEngine
from lading.upload.engines.s5cmd import NotInstalled, S5cmdEngine
from lading.upload.send_stage import EngineSet
from lading.verification.content_index import ContentIndex

if TYPE_CHECKING:
    from lading.objectstore.client import ObjectStore


def start_engine(name: str | None, target: Target) -> Engine | None:
    """Return the engine that carries most files, its process on the way; None for boto3, which shares our client.

    ``name`` None: the default, s5cmd. One that cannot do what is asked for, or a default that is not installed, is
    named, and crt is taken, else boto3.
    """
    if name == "boto3":
        return None
    chosen = name or "s5cmd"
    lacks = unable(chosen, target.manner, choose_way(target).style, target.endpoint)
    if not lacks:
        try:
            engine, lacks = _start(chosen, target)
        except NotInstalled as error:
            if name:
                raise
            engine, lacks = None, str(error).partition(";")[0]
        if engine is not None:
            return engine
    other = _fallback(target) if chosen != "crt" else None
    if other is None:
        print(f"note: {lacks}, so the slower boto3 sends the files", file=sys.stderr)
        return None
    print(f"note: {lacks}, so crt sends the files", file=sys.stderr)
    other.load()
    return other


def _start(name: str, target: Target) -> tuple[Engine | None, str]:
    """Return an engine with its process on the way, or why it cannot open files here."""
    if name == "s5cmd":
        sender = S5cmdEngine(target)
        return (sender, "") if sender.can_share else (None, "s5cmd cannot open files through /proc here")
    client = CrtEngine(target) if name == "crt" else ObstoreEngine(target)
    if isinstance(client, CrtEngine) and not client.can_share:
        return None, "crt cannot open files through /proc here"
    client.load()
    return client, ""


def _fallback(target: Target) -> CrtEngine | None:
    """Return the engine for what another cannot carry, nothing begun; None where it cannot do that here."""
    if not is_there("awscrt") or unable("crt", target.manner, choose_way(target).style, target.endpoint):
        return None
    engine = CrtEngine(target)
    return engine if engine.can_share else None


def build_engines(
    first: Engine | None,
    target: Target,
    store: "ObjectStore",
    journal: Path,
    resume_bytes: int,
    known: ContentIndex | None = None,
) -> EngineSet:
    """Return the engines of a run. ``known``: content that the server has, and can be asked to copy."""
    boto3 = BotoEngine(target, store)
    crt = _fallback(target) if first is not None and first.name != "crt" else None
    # Few at once: each of them sends its parts in parallel.
    huge = MultipartEngine(replace(target, workers=2), store, journal=journal, resume_bytes=resume_bytes)
    reuse = ReuseEngine(target, store, known) if known is not None else None
    return EngineSet(
        first or BotoEngine(target, store), crt or boto3, huge, resume_bytes, reuse, boto3 if crt else None
    )
