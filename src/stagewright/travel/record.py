"""The document of an exported cache: which key leads to which result, and which layers results are made of.

It has BuildKit's media type and its list of layers (`blob`, `parent`, and the annotations that BuildKit writes where no
manifest describes the blobs). What leads to them is our own: `steps`, one for each canonical key (see cache/keys.py),
in the order of those keys, and `mounts`, the cache mounts. Equal caches are equal bytes. The one time in it is when a
layer was made, which the image's history tells, too: so that an image that is all cached is the same image on each
machine. It is left out where SOURCE_DATE_EPOCH says what the history is to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stagewright.errors import IntegrityError
from stagewright.harmless import clean_name
from stagewright.image.digest import validate_digest
from stagewright.image.gojson import Fields, dumps, loads_object
from stagewright.records import dataclass, replace
from stagewright.snapshots.compress import LayerBlob
from stagewright.snapshots.lazy import KnownLayer

CACHE_CONFIG = "application/vnd.buildkit.cacheconfig.v0"
MAX_SIZE = 64 << 20
# Random keys ("n:") are of one run on one machine.
_KEYS = ("d:", "c:", "s:")
_NO_PARENT = -1
_MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """A layer on the one with the index `parent` (None: on nothing)."""

    known: KnownLayer
    parent: int | None


@dataclass(frozen=True, slots=True)
class CacheStep:
    """What `keys` and the canonical key lead to.

    `layer` is the index of the result's topmost layer. Without one it is the empty snapshot if `is_empty`, else there
    is no result, but steps that are built on it may have some.
    """

    canonical: str
    keys: tuple[str, ...]
    name: str = ""
    layer: int | None = None
    is_empty: bool = False

    @property
    def has_result(self) -> bool:
        """Whether a snapshot is known for it."""
        return self.is_empty or self.layer is not None


@dataclass(frozen=True, slots=True)
class CacheMount:
    """A cache mount by its identity: the blob of its list of files (see travel/files.py) and its packs.

    Blobs are (digest, size in bytes).
    """

    id: str
    files: tuple[str, int]
    packs: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """All of an exported cache but the blobs."""

    layers: tuple[CacheLayer, ...] = ()
    steps: tuple[CacheStep, ...] = ()
    mounts: tuple[CacheMount, ...] = ()

    def chain(self, layer: int | None) -> list[KnownLayer]:
        """A layer with all below it, the bottom one first."""
        found: list[KnownLayer] = []
        while layer is not None:
            found.append(self.layers[layer].known)
            layer = self.layers[layer].parent
        return found[::-1]

    def to_bytes(self) -> bytes:
        """The document."""
        value: dict[str, Any] = {"layers": [_layer_json(layer) for layer in self.layers]}
        value["steps"] = [_step_json(step) for step in self.steps]
        if self.mounts:
            value["mounts"] = [
                {"id": mount.id, "files": _blob_json(mount.files), "packs": list(map(_blob_json, mount.packs))}
                for mount in self.mounts
            ]
        return dumps(value)

    @staticmethod
    def from_bytes(data: bytes) -> CacheRecord:
        """Read a document. One of BuildKit's own has no steps for us. Raises IntegrityError."""
        if len(data) > MAX_SIZE:
            raise IntegrityError(f"cache config has {len(data)} bytes, more than {MAX_SIZE}")
        fields = Fields(loads_object(data, "cache config"), "cache config")
        if "steps" not in fields and "mounts" not in fields:
            return CacheRecord()
        layers = tuple(_layer(entry, index) for index, entry in enumerate(fields.objects("layers")))
        steps = tuple(_step(entry, len(layers)) for entry in fields.objects("steps"))
        mounts = tuple(_mount(entry) for entry in fields.objects("mounts"))
        return CacheRecord(layers, steps, mounts)


def merged(records: Sequence[CacheRecord]) -> CacheRecord:
    """All that records know; what one of the first has goes before what others have of the same."""
    layers: list[CacheLayer] = []
    steps: list[CacheStep] = []
    mounts: dict[str, CacheMount] = {}
    for record in records:
        start = len(layers)
        for layer in record.layers:
            layers.append(replace(layer, parent=None if layer.parent is None else layer.parent + start))
        for step in record.steps:
            steps.append(replace(step, layer=None if step.layer is None else step.layer + start))
        mounts = {**{mount.id: mount for mount in record.mounts}, **mounts}
    return CacheRecord(tuple(layers), tuple(steps), tuple(mounts.values()))


def _blob_json(blob: tuple[str, int]) -> dict[str, Any]:
    return {"blob": blob[0], "size": blob[1]}


def _mount(fields: Fields) -> CacheMount:
    files = fields.object("files")
    if files is None or not fields.string("id"):
        raise IntegrityError("cache config: a cache mount is without its id or its list of files")
    return CacheMount(fields.string("id"), _blob(files), tuple(map(_blob, fields.objects("packs"))))


def _blob(fields: Fields) -> tuple[str, int]:
    size = fields.integer("size")
    if size < 0:
        raise IntegrityError(f"{fields.what}: size is negative")
    return validate_digest(fields.raw("blob")), size


def _layer_json(layer: CacheLayer) -> dict[str, Any]:
    blob = layer.known.blob
    value: dict[str, Any] = {
        "blob": blob.digest,
        "parent": _NO_PARENT if layer.parent is None else layer.parent,
        "annotations": {"mediaType": blob.media_type, "diffID": blob.diff_id, "size": blob.size},
    }
    if layer.known.variant:
        value["variant"] = layer.known.variant
    if layer.known.created is not None:
        value["created"] = round(layer.known.created * _MICROS)
    return value


def _step_json(step: CacheStep) -> dict[str, Any]:
    value: dict[str, Any] = {"canonical": step.canonical, "keys": list(step.keys)}
    if step.name:
        value["name"] = step.name
    if step.has_result:
        value["layer"] = _NO_PARENT if step.layer is None else step.layer
    return value


def _layer(fields: Fields, index: int) -> CacheLayer:
    about = fields.object("annotations")
    parent = fields.integer("parent")
    if about is None or not _NO_PARENT <= parent < index or about.integer("size") < 0:
        raise IntegrityError("cache config: a layer is without its description, or on one that is not before it")
    blob = LayerBlob(
        about.string("mediaType"),
        validate_digest(fields.raw("blob")),
        about.integer("size"),
        validate_digest(about.raw("diffID")),
    )
    created = fields.integer("created") / _MICROS if "created" in fields else None
    return CacheLayer(KnownLayer(blob, fields.string("variant"), created), None if parent == _NO_PARENT else parent)


def _step(fields: Fields, layers: int) -> CacheStep:
    canonical, keys = fields.string("canonical"), fields.strings("keys")
    _check_keys([canonical, *keys])
    name = clean_name(fields.string("name"))
    if fields.raw("layer") is None:
        return CacheStep(canonical, keys, name)
    layer = fields.integer("layer")
    if not _NO_PARENT <= layer < layers:
        raise IntegrityError("cache config: a step's layer is not in the list")
    return CacheStep(canonical, keys, name, None if layer == _NO_PARENT else layer, layer == _NO_PARENT)


def _check_keys(keys: Sequence[str]) -> None:
    if not all(key.startswith(_KEYS) for key in keys):
        raise IntegrityError("cache config: a key is of no kind that travels")
