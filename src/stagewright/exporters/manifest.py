"""A result becomes an image in the blob store: layer blobs, config, manifest."""

from __future__ import annotations

from collections.abc import Callable

from stagewright.errors import NotFoundError, RegistryError, UsageError
from stagewright.exporters.annotations import Annotations
from stagewright.exporters.imageconfig import LayerFacts, complete
from stagewright.exporters.result import Exported, ExportResult, Services
from stagewright.image import mediatypes
from stagewright.image.descriptor import Descriptor
from stagewright.image.manifest import Manifest
from stagewright.progress.reporter import Reporter, Status
from stagewright.records import dataclass, field, replace
from stagewright.registry.reference import Reference
from stagewright.snapshots.compress import Compression, LayerBlob

_CREATED = "org.opencontainers.image.created"
_CONFIG_DIGEST = "config.digest"
_OCI = {"": mediatypes.OCI_LAYER, "gzip": mediatypes.OCI_LAYER_GZIP, "zstd": mediatypes.OCI_LAYER_ZSTD}
_DOCKER = {"": mediatypes.DOCKER_LAYER, "gzip": mediatypes.DOCKER_LAYER_GZIP, "zstd": mediatypes.DOCKER_LAYER_ZSTD}


@dataclass(frozen=True, slots=True)
class ImageForm:
    """In which form an image is made: its layers' compression, whether pulled layers are compressed anew, the family of
    its media types, whether files' times later than the epoch are put back to it."""

    compression: Compression = field(default_factory=Compression)
    force_compression: bool = False
    oci_mediatypes: bool = True
    rewrite_timestamp: bool = True


def make_image(
    result: ExportResult,
    services: Services,
    form: ImageForm,
    annotations: Annotations,
    reporter: Reporter,
    *,
    fetch: bool = True,
    use: Callable[[Descriptor], None] = lambda layer: None,
) -> Exported:
    """Put the image of a result into the blob store and answer it, still without a name.

    Without `fetch` its layers may be where `services.open_blob` gets them from. `use` gets each layer when it is made.
    Raises UsageError for annotations on Docker's media types, which have no place for them.
    """
    if annotations.manifest and not form.oci_mediatypes:
        raise UsageError("annotations need OCI media types", hint="leave oci-mediatypes=false out")
    blobs = _layer_blobs(result, services, form, reporter, fetch, use)
    facts = [
        LayerFacts(blob.diff_id, services.snapshots.row(snapshot).created)
        for snapshot, blob in zip(result.layers, blobs, strict=True)
    ]
    config = complete(result.config, facts, result.epoch)
    if result.cache is not None:
        config = replace(config, cache=result.cache(blobs))
    config_data = config.to_bytes()
    oci = form.oci_mediatypes
    config_digest = services.blobs.write(config_data)
    manifest = Manifest(
        config=Descriptor(mediatypes.OCI_CONFIG if oci else mediatypes.DOCKER_CONFIG, config_digest, len(config_data)),
        layers=tuple(_descriptor(blob, form) for blob in blobs),
        media_type=mediatypes.OCI_MANIFEST if oci else mediatypes.DOCKER_MANIFEST,
        annotations=annotations.manifest,
    )
    manifest_data = manifest.to_bytes()
    digest = services.blobs.write(manifest_data)
    for what in (f"exporting manifest {digest}", f"exporting config {config_digest}"):
        with reporter.status(what):
            pass
    notes = {**annotations.descriptor, _CONFIG_DIGEST: config_digest}
    if config.created is not None:
        notes[_CREATED] = config.created
    descriptor = Descriptor(manifest.media_type, digest, len(manifest_data), annotations=notes)
    return Exported(descriptor, config_digest, manifest.layers)


def _layer_blobs(
    result: ExportResult,
    services: Services,
    form: ImageForm,
    reporter: Reporter,
    fetch: bool,
    use: Callable[[Descriptor], None],
) -> list[LayerBlob]:
    with reporter.status("exporting layers") as row:
        done = 0
        blobs = []
        for snapshot in result.layers:
            services.check_canceled()
            _bring_back(snapshot, result, services, reporter)
            blob = services.layers.obtain(
                snapshot,
                form.compression,
                force=form.force_compression,
                epoch=result.epoch if form.rewrite_timestamp else None,
                fetch=fetch,
                progress=services.cancelable(_beyond(row, done)),
            )
            use(_descriptor(blob, form))
            blobs.append(blob)
            done = row.current
        return blobs


def _descriptor(blob: LayerBlob, form: ImageForm) -> Descriptor:
    return Descriptor(layer_type(blob, oci=form.oci_mediatypes), blob.digest, blob.size)


def _bring_back(snapshot: int, result: ExportResult, services: Services, reporter: Reporter) -> None:
    """Fetch a base image's layer again whose blob was pruned: packed anew it would be another blob than its image's."""
    pulled = services.layers.pulled(snapshot)
    if pulled is None or services.blobs.has(pulled.digest):
        return
    if services.remote().has(pulled.digest):
        return
    descriptor = Descriptor(pulled.media_type, pulled.digest, pulled.size)
    for name in result.bases:
        try:
            with reporter.status(pulled.digest, pulled.size) as row:
                reference = Reference.parse(name)
                services.client().fetch_blob(reference, descriptor, services.blobs, row.update, services.cancel)
        except (RegistryError, NotFoundError):
            continue
        return
    reporter.warn(f"layer {pulled.digest} of the base image cannot be fetched again, so it is packed anew")


def _beyond(row: Status, done: int) -> Callable[[int], None]:
    return lambda current: row.update(done + current)


def layer_type(blob: LayerBlob, *, oci: bool) -> str:
    """The media type of a layer in the family of OCI or of Docker."""
    # A pulled layer may be of a kind that only its maker knows.
    compression = mediatypes.LAYER_COMPRESSION.get(blob.media_type)
    return blob.media_type if compression is None else (_OCI if oci else _DOCKER)[compression]
