"""The last touches to an image config: diff IDs, a history entry for each layer, and times where there are none."""

from __future__ import annotations

from collections.abc import Sequence

from stagewright.image.config import History, ImageConfig
from stagewright.records import dataclass, replace

_COMMENT = "stagewright.exporter.image.v0"


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What the config says about a layer: its diff ID and when it was made (Unix seconds)."""

    diff_id: str
    created: float


def format_time(seconds: float) -> str:
    """An RFC 3339 time in UTC as Go writes it, with microseconds where there are some."""
    import time

    whole, micros = divmod(round(seconds * 1_000_000), 1_000_000)
    fraction = f"{micros:06d}".rstrip("0")
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))
    return f"{text}.{fraction}Z" if fraction else f"{text}Z"


def complete(config: ImageConfig, layers: Sequence[LayerFacts], epoch: int | None) -> ImageConfig:
    """The config of an image that has these layers, the bottom one first.

    History and layers are brought together as BuildKit does it: layers without an entry get one at the end, entries
    without a layer become empty ones. A missing time is that of the entry's layer, for an empty one that of the layer
    before it, or `epoch` (Unix seconds) for all of them where it is given. The image was made at its last entry's time.
    """
    history = _fit([*config.history], layers)
    history = _dated(history, layers) if epoch is None else _all_dated(history, format_time(epoch))
    created = config.created
    if created is None and epoch is not None:
        created = format_time(epoch)
    for entry in history if config.created is None and epoch is None else ():
        created = entry.created or created
    return replace(config, created=created, history=tuple(history), diff_ids=tuple(layer.diff_id for layer in layers))


def _fit(history: list[History], layers: Sequence[LayerFacts]) -> list[History]:
    fitted = []
    left = len(layers)
    for entry in history:
        if not entry.empty_layer and not left:
            fitted.append(replace(entry, empty_layer=True))
            continue
        left -= not entry.empty_layer
        fitted.append(entry)
    return fitted + [History(comment=_COMMENT)] * left


def _all_dated(history: list[History], created: str) -> list[History]:
    return [entry if entry.created else replace(entry, created=created) for entry in history]


def _dated(history: list[History], layers: Sequence[LayerFacts]) -> list[History]:
    own = iter(layers)
    dated = []
    for entry in history:
        if not entry.empty_layer:
            made = next(own).created
            entry = entry if entry.created else replace(entry, created=format_time(made))
        dated.append(entry)
    # An empty entry before the first new layer belongs to this build, too, rather than to the base image's time.
    first_missing = next((at for at, entry in enumerate(dated) if not entry.created), len(dated))
    times = [entry.created for entry in dated]
    last = next((time for time in times[first_missing:] if time), None) or next(
        (time for time in reversed(times) if time), None
    )
    for at in range(first_missing, len(dated)):
        if dated[at].created:
            last = dated[at].created
        else:
            dated[at] = replace(dated[at], created=last)
    return dated
