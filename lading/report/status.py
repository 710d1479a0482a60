"""``make status``: the facts of a release as a table in the terminal.

Input: ``Facts``. Output: a table of stages, the failures, the next command.
Invariant: a stage without artefact says which command makes it.
"""

import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lading.core.command_line import printable
from lading.core.progress import counted, format_bytes, format_count, format_seconds
from lading.report.facts import Facts
from lading.tree.coverage import describe_gap, describe_rest, make_coverage

MOST_FAILURES = 20
LOG_WIDTH = 200


def stages(facts: Facts) -> list[tuple[str, str, str]]:
    """Return (stage, state, what is known) in the order of the pipeline; state is done, open, bad or todo."""
    return [_crawl(facts), _plan(facts), _upload(facts), _verify(facts)]


def _crawl(facts: Facts) -> tuple[str, str, str]:
    tree = facts.tree
    if tree is None:
        return "crawl", "todo", "run: make find.json"
    text = f"{counted(tree.files, 'file')}, {format_bytes(tree.bytes)} in {tree.root}, {tree.ended[:19]}"
    if tree.unreadable:
        gap = describe_gap(make_coverage(tree, tree.unreadable, 0, 0), printable)
        return "crawl", "bad", f"{text}; {gap}"
    if tree.not_regular and (kinds := tree.not_regular.describe(printable)):
        text += f"; not regular files: {'; '.join(kinds)}"
    return "crawl", "done", text


def _plan(facts: Facts) -> tuple[str, str, str]:
    plan = facts.plan
    if plan is None:
        return "batch", "todo", "run: make batch.json"
    files, size = sum(batch.files for batch in plan.batches), sum(batch.size for batch in plan.batches)
    text = f"{counted(len(plan.batches), 'batch', 'batches')}, {counted(files, 'file')}, {format_bytes(size)}"
    text += f"; {counted(len(plan.oversize), 'file')} above the bound" if plan.oversize else ""
    coverage = facts.coverage
    if rest := describe_rest(coverage, printable):
        text += f"; in no batch: {rest}"
    if gap := describe_gap(coverage, printable):
        return "batch", "bad", f"{text}; incomplete: {gap}"
    if facts.tree and facts.tree.sha256 != plan.settings.get("tree_sha256"):
        return "batch", "open", f"{text}; it is of another crawl than find.json; run: make batch.json"
    return "batch", "done", text


def _upload(facts: Facts) -> tuple[str, str, str]:
    run = facts.last("upload")
    if run is None:
        return "upload", "todo", "run: make upload"
    batches, objects = run["batches"], run["objects"]
    text = (
        f"{format_count(batches['completed'])} of {counted(batches['listed'], 'batch', 'batches')}; last run "
        f"{run['started']}, {format_seconds(run['seconds'])}: sent {counted(objects['sent'], 'object')}, "
        f"{format_bytes(run['bytes']['sent'])} ({format_bytes(run['bytes']['sent'] / max(run['seconds'], 1e-9))}/s)"
    )
    if run["stopped"]:
        text += f"; {run['stopped']}"
    if objects["left"]:
        text += f"; {counted(objects['left'], 'object')} left"
    if facts.failures:
        return "upload", "bad", f"{text}; {len(facts.failures)} failed"
    return "upload", "open" if objects["left"] else "done", text


def _verify(facts: Facts) -> tuple[str, str, str]:
    run = facts.last("verify")
    if run is None:
        return "verify", "todo", "run: make verify"
    objects = run["objects"]
    text = f"{format_count(objects['proven'])} of {counted(objects['listed'], 'object')} verified, {run['started']}"
    kinds = ("missing", "differing", "contradicted", "unreadable")
    wrong = [f"{objects[name]:,} {name}" for name in kinds if objects.get(name)]
    if gone := run.get("source", {}).get("gone"):
        wrong.append(f"{counted(gone, 'source file')} gone")
    if wrong:
        return "verify", "bad", f"{text}; {', '.join(wrong)}"
    if run.get("crawl", {}).get("complete", True) is False:
        return "verify", "bad", f"{text}; not complete, because the crawl of this plan had gaps"
    return "verify", "done" if run["complete"] else "open", text


STYLES = {"done": "green", "open": "yellow", "bad": "red", "todo": "dim"}


def render(facts: Facts) -> Table:
    """Return the table."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for stage, state, text in stages(facts):
        table.add_row(Text(stage, "bold"), Text(state, STYLES[state]), Text(printable(text)))
    for fault in facts.faults:
        table.add_row("", Text("bad", "red"), Text(printable(fault)))
    for failure in facts.failures[:MOST_FAILURES]:
        table.add_row("", Text("failed", "red"), Text(printable(f"{failure.path}: {failure.reason}")))
    if len(facts.failures) > MOST_FAILURES:
        table.add_row("", "", f"and {len(facts.failures) - MOST_FAILURES} more; make report lists all")
    return table


def show(facts: Facts, console: Console | None = None) -> None:
    """Print the table on stdout."""
    # Into a pipe or a log a line stays a line.
    wide = None if sys.stdout.isatty() else LOG_WIDTH
    (console or Console(width=wide)).print(render(facts))


def healthy(facts: Facts) -> bool:
    """Tell whether nothing needs a person: no failure, no damaged artefact, no stage that went wrong."""
    states: list[Any] = [state for _, state, _ in stages(facts)]
    return not facts.faults and "bad" not in states
