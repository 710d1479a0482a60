"""Run a data kind in this process, as an engine would: plan, units through JSON, finish."""

import argparse
import json
from pathlib import Path
from typing import Any

from lading.compress.destination import open_destination
from lading.compress.job import CompressionJob, CompressionPlan, CompressionUnit, UnitRecord, load_kind


def options_of(kind: str, **changes: Any) -> dict[str, Any]:
    """The kind's options at their defaults, with ``changes``."""
    parser = argparse.ArgumentParser()
    load_kind(kind).add_options(parser)
    defaults = vars(parser.parse_args([]))
    assert changes.keys() <= defaults.keys(), f"no such option: {changes.keys() - defaults.keys()}"
    return json.loads(json.dumps(defaults | changes))


def plan_job(
    kind: str, source: Path, destination: Path, ranks: int = 1, **changes: Any
) -> tuple[CompressionJob, CompressionPlan]:
    """A job with the facts of its plan, everything through JSON as between processes."""
    job = CompressionJob(source, str(destination), kind, options_of(kind, **changes), ranks=ranks)
    plan = load_kind(kind).plan(job)
    facts = json.loads(json.dumps(plan.facts))
    units = tuple(CompressionUnit(u.id, u.cost, json.loads(json.dumps(u.task)), u.after) for u in plan.units)
    return CompressionJob(source, str(destination), kind, job.options, facts, ranks, job.working), CompressionPlan(
        units, facts, plan.partly
    )


def compress(
    kind: str, source: Path, destination: Path, ranks: int = 1, **changes: Any
) -> tuple[dict[str, Any], list[UnitRecord]]:
    """Run the whole job, units after those they wait for; returns what ``finish`` tells, and the markers."""
    job, plan = plan_job(kind, source, destination, ranks, **changes)
    module = load_kind(kind)
    markers: dict[str, UnitRecord] = {}
    waiting = sorted(plan.units, key=lambda unit: -unit.cost)
    while waiting:
        ready = [unit for unit in waiting if all(name in markers for name in unit.after)]
        assert ready, f"units wait for ever: {[unit.id for unit in waiting][:3]}"
        for unit in ready:
            markers[unit.id] = UnitRecord(unit.id, "w0", 0.0, module.run(job, unit))
            waiting.remove(unit)
    ordered = [markers[unit.id] for unit in plan.units]
    facts = dict(module.finish(job, ordered))
    open_destination(job).tidy()
    return facts, ordered


def tree_bytes(top: Path) -> dict[str, bytes]:
    """Relative path → content of every file below ``top``."""
    return {str(path.relative_to(top)): path.read_bytes() for path in sorted(top.rglob("*")) if path.is_file()}
