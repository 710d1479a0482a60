"""Every reader of an artefact takes or refuses whatever it is given; ``python -m tests.fuzzing`` goes on for longer."""

import resource

import pytest

from tests.fuzzing import Report, fuzz


def check(report: Report, before: int) -> None:
    assert report.faults == {}
    assert report.inputs > report.accepted > 0
    assert len(report.by_reader) > 30
    # Good files of these sizes take next to nothing: what grows here was taken by a bad one.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_readers_survive_some_mutated_inputs() -> None:
    fuzz(0, inputs=100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check(fuzz(1, inputs=1500), before)


@pytest.mark.long
def test_readers_survive_many_mutated_inputs() -> None:
    fuzz(0, inputs=100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check(fuzz(20261127, seconds=80), before)
