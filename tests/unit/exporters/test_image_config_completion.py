"""The exporter's part of an image config: BuildKit's rules for history, times and diff IDs."""

from __future__ import annotations

import pytest

from stagewright.exporters.imageconfig import LayerFacts, complete, format_time
from stagewright.image.config import History, ImageConfig
from stagewright.image.platform import Platform

BASE_TIME = "2020-01-01T00:00:00Z"


def config(*history: History, created: str | None = None) -> ImageConfig:
    return ImageConfig(Platform("linux", "amd64"), created=created, history=history, diff_ids=("sha256:stale",))


def layers(*times: float) -> list[LayerFacts]:
    return [LayerFacts(f"sha256:{number}", time) for number, time in enumerate(times)]


def times(made: ImageConfig) -> list[str | None]:
    return [entry.created for entry in made.history]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1700000000, "2023-11-14T22:13:20Z"),
        (1700000000.5, "2023-11-14T22:13:20.5Z"),
        (1700000000.000125, "2023-11-14T22:13:20.000125Z"),
    ],
)
def test_times_are_written_as_go_does(seconds: float, text: str) -> None:
    assert format_time(seconds) == text


def test_layers_give_their_entries_the_time() -> None:
    made = complete(
        config(
            History(created=BASE_TIME),
            History(empty_layer=True, created=BASE_TIME),
            History(empty_layer=True, created_by="ENV"),
            History(created_by="RUN"),
            History(empty_layer=True, created_by="CMD"),
        ),
        layers(1, 1000),
        None,
    )
    assert made.diff_ids == ("sha256:0", "sha256:1")
    # The ENV before the first new layer is as new as that, not as old as the base image.
    assert times(made) == [BASE_TIME, BASE_TIME, *[format_time(1000)] * 3]
    assert made.created == format_time(1000)


def test_without_a_new_layer_the_base_image_gives_the_time() -> None:
    made = complete(config(History(created=BASE_TIME), History(empty_layer=True)), layers(1), None)
    assert times(made) == [BASE_TIME, BASE_TIME]
    assert made.created == BASE_TIME


def test_the_epoch_is_the_time_of_all_that_is_new() -> None:
    made = complete(config(History(created=BASE_TIME), History(empty_layer=True), History()), layers(1, 2), 5)
    assert times(made) == [BASE_TIME, format_time(5), format_time(5)]
    assert made.created == format_time(5)


def test_a_time_that_is_given_stays() -> None:
    assert complete(config(History(), created=BASE_TIME), layers(7), None).created == BASE_TIME


def test_layers_without_an_entry_get_one() -> None:
    made = complete(config(History(created_by="RUN")), layers(1, 2, 3), None)
    assert [entry.empty_layer for entry in made.history] == [False] * 3
    assert times(made) == [format_time(1), format_time(2), format_time(3)]


def test_entries_without_a_layer_become_empty() -> None:
    made = complete(config(History(), History(), History()), layers(1), None)
    assert [entry.empty_layer for entry in made.history] == [False, True, True]


def test_an_image_without_anything() -> None:
    made = complete(config(), [], None)
    assert (made.created, made.history, made.diff_ids) == (None, (), ())
