"""The exporters by their types, with the options that buildx and BuildKit give them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from stagewright.errors import UsageError
from stagewright.exporters.annotations import OPTION, sort_annotations
from stagewright.exporters.attrs import Attrs
from stagewright.exporters.destination import check_stream, output_file
from stagewright.exporters.manifest import ImageForm, make_image
from stagewright.exporters.result import Exported, ExportResult, Services
from stagewright.progress.reporter import Reporter
from stagewright.records import replace
from stagewright.registry.reference import Reference
from stagewright.snapshots.compress import Compression

if TYPE_CHECKING:
    from stagewright.exporters.archive import ArchiveImage
    from stagewright.exporters.push import Push
    from stagewright.image.descriptor import Descriptor
    from stagewright.snapshots.sinks import ChunkSink


class Exporter(ABC):
    """Makes one output of a result. `title` is the name of its vertex.

    `takes_layers` says that it wants all of the result here, and not what is elsewhere left there.
    """

    title: str
    takes_layers = True

    @abstractmethod
    def export(self, result: ExportResult, services: Services, reporter: Reporter) -> Exported | None:
        """Make the output; answers the image where it is one. Raises StagewrightError."""


def make_exporter(kind: str, dest: str | None, attrs: Mapping[str, str], tags: Sequence[str] = ()) -> Exporter:
    """The exporter of one `--output`: image, oci, docker, local, tar or cacheonly.

    `dest` is a path, "-" or None for standard output; a docker archive without one goes to the Docker engine. `tags`
    take the place of the option `name`. Raises UsageError for a type or option that is not known and for a value or
    destination that makes no sense, so it is called before the build.
    """
    given = Attrs(kind, attrs)
    exporters: dict[str, Callable[[], Exporter]] = {
        "image": lambda: ImageExporter(given, dest, tags),
        "oci": lambda: ArchiveExporter(given, dest, tags, docker=False),
        "docker": lambda: ArchiveExporter(given, dest, tags, docker=True),
        "local": lambda: LocalExporter(given, dest),
        "tar": lambda: TarExporter(given, dest),
        "cacheonly": lambda: CacheOnlyExporter(dest),
    }
    if kind not in exporters:
        raise UsageError(f'--output: unknown type "{kind}"', hint=f"one of {', '.join(exporters)}, registry")
    exporter = exporters[kind]()
    given.finish()
    return exporter


class _ImageOptions:
    """What all exporters of images have in common."""

    def __init__(self, attrs: Attrs, tags: Sequence[str]) -> None:
        named = attrs.text("name") or ""
        texts = tags or [text.strip() for text in named.split(",") if text.strip()]
        self.names = tuple(dict.fromkeys(Reference.parse(text) for text in texts))
        for name in self.names:
            if name.digest is not None:
                raise UsageError(f"cannot name an image {name.familiar()}: its digest is not known before the build")
        compression = attrs.text("compression") or "gzip"
        level = attrs.integer("compression-level")
        self.form = ImageForm(
            compression=Compression(compression, level),
            force_compression=attrs.flag("force-compression", False),
            oci_mediatypes=attrs.flag("oci-mediatypes", True),
            rewrite_timestamp=attrs.flag("rewrite-timestamp", True),
        )
        self._annotations = attrs.prefixed(OPTION)

    def make(
        self,
        result: ExportResult,
        services: Services,
        reporter: Reporter,
        *,
        fetch: bool = True,
        use: Callable[[Descriptor], None] = lambda layer: None,
    ) -> Exported:
        annotations = sort_annotations(self._annotations, result.annotations, result.platform)
        return make_image(result, services, self.form, annotations, reporter, fetch=fetch, use=use)


class ImageExporter(Exporter):
    """An image in Stagewright's own store, and pushed where that is asked for."""

    title = "exporting to image"

    def __init__(self, attrs: Attrs, dest: str | None, tags: Sequence[str]) -> None:
        if dest is not None:
            raise UsageError("--output type=image has no dest", hint="type=oci or type=docker write files")
        self._image = _ImageOptions(attrs, tags)
        by_digest = attrs.flag("push-by-digest", False)
        self._pushes = attrs.flag("push", False) or by_digest
        self._by_digest = by_digest
        # The registry that it goes to may have all layers, and then nothing of them has to come here.
        self.takes_layers = not self._pushes
        self._insecure = attrs.flag("registry.insecure", False)
        self._store = attrs.flag("store", True)
        self._canonical = attrs.flag("name-canonical", False)
        # Our store has nothing to unpack: the snapshots are there already.
        attrs.flag("unpack", False)
        if self._pushes and not self._image.names:
            raise UsageError("a name is needed when an image is pushed", hint="give it by -t NAME")

    def export(self, result: ExportResult, services: Services, reporter: Reporter) -> Exported:
        with ExitStack() as stack:
            pushes = [stack.enter_context(push) for push in self._begin_pushes(result, services, reporter)]

            def use(layer: Descriptor) -> None:
                for push in pushes:
                    push.begin(layer)

            made = self._image.make(result, services, reporter, fetch=self.takes_layers, use=use)
            left = [layer.digest for layer in made.layers if not services.blobs.has(layer.digest)]
            for digest in left if self._store else ():
                services.places.note([digest], services.remote().places(digest))
            names = self._name(made, services, reporter)
            for name, push in zip(self._image.names, pushes, strict=False):
                target = replace(name, tag=None, digest=made.descriptor.digest) if self._by_digest else name
                push.finish(target, made.descriptor)
                if self._store:
                    services.places.note(left, [{"type": "registry", "ref": str(target)}])
        return replace(made, names=names)

    def _begin_pushes(self, result: ExportResult, services: Services, reporter: Reporter) -> Iterator[Push]:
        """One for each name, if the image is to be pushed."""
        if self._pushes:
            from stagewright.exporters.push import Push

            for name in self._image.names:
                yield Push(services, name, result.bases, reporter, insecure=self._insecure)

    def _name(self, made: Exported, services: Services, reporter: Reporter) -> tuple[str, ...]:
        """Name the image in the store, and answer its names."""
        names = []
        for name in self._image.names:
            whole = [name, name.with_digest(made.descriptor.digest)] if self._canonical else [name]
            for each in whole if self._store else ():
                with reporter.status(f"naming to {each}"):
                    services.images.put(str(each), replace(made.descriptor, annotations={}))
            names += [str(each) for each in whole]
        return tuple(names)


class ArchiveExporter(Exporter):
    """An OCI image layout in a tar or a folder, or a Docker archive in a file or right into a Docker engine."""

    def __init__(self, attrs: Attrs, dest: str | None, tags: Sequence[str], *, docker: bool) -> None:
        self._docker = docker
        self.title = f"exporting to {'docker' if docker else 'oci'} image format"
        self._image = _ImageOptions(attrs, tags)
        self._dest = dest
        self._tar = attrs.flag("tar", True)
        self._load = docker and attrs.flag("load", not dest)
        if self._load:
            if dest:
                raise UsageError("--output type=docker: an image is loaded or written to dest, not both")
        elif self._tar:
            check_stream(dest, "docker" if docker else "oci")
        elif not dest or dest == "-" or (os.path.exists(dest) and not os.path.isdir(dest)):
            raise UsageError("--output: tar=false needs dest=FOLDER")
        if docker and not self._tar:
            raise UsageError("--output type=docker: tar=false is not supported", hint="use type=oci,tar=false")

    def export(self, result: ExportResult, services: Services, reporter: Reporter) -> Exported:
        from stagewright.exporters.archive import ArchiveImage, write_archive, write_layout
        from stagewright.snapshots.sinks import FileSink

        made = self._image.make(result, services, reporter)
        images = [ArchiveImage(made.descriptor, self._image.names)]
        if not self._tar:
            assert self._dest is not None
            with reporter.status("copying files") as row:
                write_layout(images, services.blobs, self._dest, services.cancelable(row.update))
        elif self._load:
            self._into_engine(images, services, reporter)
        else:
            with reporter.status("sending tarball") as row, output_file(self._dest) as file:
                write_archive(
                    images,
                    services.blobs,
                    FileSink(file),
                    docker=self._docker,
                    progress=services.cancelable(row.update),
                )
        return replace(made, names=tuple(str(name) for name in self._image.names))

    def _into_engine(self, images: Sequence[ArchiveImage], services: Services, reporter: Reporter) -> None:
        from stagewright.exporters.archive import write_archive
        from stagewright.exporters.engine import load

        with reporter.status("sending tarball") as row:

            def write(sink: ChunkSink) -> None:
                write_archive(images, services.blobs, sink, docker=True, progress=services.cancelable(row.update))

            load(services.env, write)


class LocalExporter(Exporter):
    """The result's files in a folder."""

    title = "exporting to client directory"

    def __init__(self, attrs: Attrs, dest: str | None) -> None:
        if not dest or dest == "-":
            raise UsageError("--output type=local needs dest=FOLDER")
        if os.path.exists(dest) and not os.path.isdir(dest):
            raise UsageError(f"--output type=local: the destination {dest} is not a folder")
        self._dest = dest
        self._split = attrs.flag("platform-split", False)

    def export(self, result: ExportResult, services: Services, reporter: Reporter) -> None:
        from stagewright.exporters.files import copy_files

        dest = self._dest
        if self._split:
            dest = os.path.join(dest, str(result.platform).replace("/", "_"))
        with reporter.status("copying files") as row, services.snapshots.view(result.snapshot) as root:
            copy_files(f"/proc/self/fd/{root}", dest, epoch=result.epoch, progress=services.cancelable(row.update))


class TarExporter(Exporter):
    """The result's files in one tar, with their owners."""

    title = "exporting to client tarball"

    def __init__(self, attrs: Attrs, dest: str | None) -> None:
        check_stream(dest, "tar")
        self._dest = dest

    def export(self, result: ExportResult, services: Services, reporter: Reporter) -> None:
        from stagewright.snapshots.sinks import FileSink
        from stagewright.snapshots.tarwriter import write_tree

        with (
            reporter.status("sending tarball") as row,
            services.snapshots.view(result.snapshot) as root,
            output_file(self._dest) as file,
        ):
            sink = FileSink(file)
            write_tree(f"/proc/self/fd/{root}", sink, epoch=result.epoch, progress=services.cancelable(row.update))
            sink.flush()


class CacheOnlyExporter(Exporter):
    """No output: the build fills the cache."""

    title = "exporting to cache only"
    takes_layers = False

    def __init__(self, dest: str | None) -> None:
        if dest is not None:
            raise UsageError("--output type=cacheonly has no dest")

    def export(self, result: ExportResult, services: Services, reporter: Reporter) -> None:
        """Nothing is left to do."""
