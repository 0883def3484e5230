"""What of a build's store is elsewhere: imported caches, layers that are yet to come, blobs that were left in places.

All of it is loaded when it is first needed: a build that finds everything in its store never does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import TYPE_CHECKING

from stagewright.image.platform import Platform
from stagewright.options import BuildOptions
from stagewright.progress.reporter import Emitter, Reporter
from stagewright.snapshots.layers import LayerBlobs
from stagewright.sources.image import ImageSource
from stagewright.state import State

if TYPE_CHECKING:
    from stagewright.content.remote import RemoteBlobs
    from stagewright.registry.client import RegistryClient
    from stagewright.registry.http import HttpClient
    from stagewright.snapshots.lazy import LazyLayers
    from stagewright.travel.caches import BuildCaches
    from stagewright.travel.opening import Opener


class Elsewhere:
    """That of one build.

    `client` makes the registry client, `http` that for other servers. `vertex` opens a vertex of the progress, by its
    name and what sets it apart from others of that name. With `only_here` results whose files are not in the store are
    none.
    """

    def __init__(
        self,
        options: BuildOptions,
        env: Mapping[str, str],
        state: State,
        platform: Platform,
        client: Callable[[], RegistryClient],
        http: Callable[[], HttpClient],
        vertex: Callable[..., AbstractContextManager[Reporter]],
        emitter: Emitter,
        cancel: threading.Event,
        *,
        only_here: bool = False,
    ) -> None:
        self._options = options
        self._env = env
        self._state = state
        self._platform = platform
        self._client = client
        self._http = http
        self._vertex = vertex
        self._emitter = emitter
        self._cancel = cancel
        self._only_here = only_here
        state.keys.obtainable = lambda snapshot: self.lazy.obtainable(snapshot)
        state.snapshots.fill = lambda snapshot: self.lazy.fill(snapshot)

    def caches(self, repositories: Callable[[], Sequence[str]]) -> BuildCaches | None:
        """The caches that the build imports and exports; None for none. Raises UsageError for options that are wrong.

        `repositories` answers the names of images that may have some of the layers.
        """
        options = self._options
        if not options.cache_from and not options.cache_to:
            return None
        from stagewright.travel.caches import BuildCaches

        return BuildCaches(
            options,
            self._env,
            self._state,
            self._opener,
            self.remote,
            repositories,
            self._vertex,
            self._emitter,
            self._cancel,
        )

    @cached_property
    def remote(self) -> RemoteBlobs:
        """Where blobs are: in the caches of this build, and where earlier ones have left them."""
        from stagewright.content.remote import RemoteBlobs

        return RemoteBlobs(self._state.blobs) if self._only_here else self.left

    @cached_property
    def left(self) -> RemoteBlobs:
        """Where earlier builds have left blobs of images, which are asked for even if nothing else is fetched."""
        from stagewright.content.remote import RemoteBlobs
        from stagewright.travel.whereabouts import Whereabouts

        state = self._state
        whereabouts = Whereabouts(state.places, self._opener, self._env, offline=self._options.offline)
        return RemoteBlobs(state.blobs, whereabouts.of)

    @cached_property
    def _opener(self) -> Opener:
        from stagewright.travel.opening import Opener

        return Opener(self._client, self._http, self._state.blobs, self._platform)

    @cached_property
    def lazy(self) -> LazyLayers:
        """The snapshots without folders."""
        from stagewright.snapshots.lazy import LazyLayers

        state = self._state
        layers = LayerBlobs(state.snapshots, state.blobs, state.db, lambda: self.remote)
        return LazyLayers(state.snapshots, layers, state.blobs, self.remote, self._vertex, self._cancel)

    def layer_blobs(self, images: ImageSource) -> LayerBlobs:
        """The blobs of layers; those of base images may come from `images` again."""
        state = self._state
        again = partial(images.fetch_again, cancel=self._cancel)
        return LayerBlobs(state.snapshots, state.blobs, state.db, lambda: self.remote, again)
