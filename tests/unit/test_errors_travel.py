"""Errors and data that pass between processes."""

from __future__ import annotations

import pickle

from stagewright.errors import SourceRange, SourceText, StepFailedError, UsageError


def test_an_error_arrives_as_it_was() -> None:
    place = SourceRange(SourceText("Dockerfile", "FROM a\nRUN b\n"), 2, 2)
    error = StepFailedError("it failed", exit_code=7, step="RUN b", stage="a", log_tail="x", location=place, hint="h")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is StepFailedError
    assert vars(copy) == vars(error)
    assert str(copy) == "it failed"
    assert copy.render() == error.render()


def test_an_error_of_few_words_arrives_too() -> None:
    copy = pickle.loads(pickle.dumps(UsageError("wrong", hint="right")))
    assert (copy.message, copy.hint, copy.location) == ("wrong", "right", None)
