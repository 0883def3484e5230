"""Places of caches, opened: what reads and writes in each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING

from stagewright.content.blobs import BlobStore
from stagewright.image.platform import Platform, host_platform
from stagewright.travel.options import GhaPlace, LocalPlace, Place, RegistryPlace, S3Place
from stagewright.travel.place import CacheStore

if TYPE_CHECKING:
    from stagewright.config import Config
    from stagewright.registry.client import RegistryClient
    from stagewright.registry.http import HttpClient
    from stagewright.travel.oci import Form


class Opener:
    """Opens places. `client` makes the registry client when it is first needed, `http` that for other servers.

    `platform` chooses the image where a place leads to an index of images.
    """

    def __init__(
        self,
        client: Callable[[], RegistryClient],
        http: Callable[[], HttpClient],
        blobs: BlobStore,
        platform: Platform,
    ) -> None:
        self._client = client
        self._http = http
        self._blobs = blobs
        self._platform = platform

    def open(
        self, place: Place, form: Form | None = None, mount_from: Callable[[], Sequence[str]] = tuple
    ) -> CacheStore:
        """What reads and writes in a place; nothing is asked there yet.

        `form` is that of the documents that are written. `mount_from` answers paths of repositories of the same
        registry that may have some of the blobs.
        """
        if isinstance(place, S3Place):
            from stagewright.travel.s3 import S3Store

            return S3Store(place)
        if isinstance(place, GhaPlace):
            from stagewright.travel.gha import GhaStore

            return GhaStore(self._http, place)
        from stagewright.travel.oci import LocalStore, RegistryStore

        if isinstance(place, RegistryPlace):
            domain = place.ref.domain
            client = (lambda: self._client().trusting(domain)) if place.insecure else self._client
            return RegistryStore(client, place.ref, self._blobs, self._platform, form, mount_from)
        assert isinstance(place, LocalPlace)
        return LocalStore(place, self._blobs, self._platform, form)


@contextmanager
def opener(config: Callable[[], Config], env: Mapping[str, str], blobs: BlobStore) -> Iterator[Opener]:
    """An opener for what is no build; what its places have opened is closed at the end of the block."""
    with ExitStack() as stack:

        @cache
        def client() -> RegistryClient:
            from stagewright.registry.client import RegistryClient

            made = RegistryClient(config(), env)
            stack.callback(made.close)
            return made

        @cache
        def http() -> HttpClient:
            from stagewright.registry.http import HttpClient

            made = HttpClient({}, env)
            stack.callback(made.close)
            return made

        yield Opener(client, http, blobs, host_platform())
