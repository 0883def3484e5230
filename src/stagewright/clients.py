"""What a build speaks to servers with: each client is made when it is first needed, and broken off with the build."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from stagewright.config import Config

if TYPE_CHECKING:
    from stagewright.registry.client import RegistryClient
    from stagewright.registry.http import HttpClient

_CANCEL_CHECK_S = 0.1


class Clients:
    """The clients of one build, for all its threads. Setting `cancel` breaks off what they wait for."""

    def __init__(self, config: Config, env: Mapping[str, str], cancel: threading.Event) -> None:
        self._config = config
        self._env = env
        self._cancel = cancel
        self._registry: RegistryClient | None = None
        self._http: HttpClient | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._watchers: list[threading.Thread] = []

    def registry(self) -> RegistryClient:
        """The registry client, made when the network is first needed."""
        with self._lock:
            if self._registry is None:
                from stagewright.registry.client import RegistryClient

                self._registry = RegistryClient(self._config, self._env)
                self._watch(self._registry)
            return self._registry

    def http(self) -> HttpClient:
        """The client for servers that are no registries, made when the first of them is asked."""
        with self._lock:
            if self._http is None:
                from stagewright.registry.http import HttpClient

                # Trust that the configuration gives to a registry is not for every URL of that host.
                self._http = HttpClient({}, self._env)
                self._watch(self._http)
            return self._http

    def _watch(self, client: RegistryClient | HttpClient) -> None:
        watcher = threading.Thread(target=self._abort_when_canceled, args=(client,), daemon=True)
        watcher.start()
        self._watchers.append(watcher)

    def _abort_when_canceled(self, client: RegistryClient | HttpClient) -> None:
        """Break off a read that waits for a silent registry, which looks at no event."""
        while not self._closed.wait(_CANCEL_CHECK_S):
            if self._cancel.is_set():
                client.abort()
                return

    def stop_watching(self) -> None:
        """Look at `cancel` no longer."""
        self._closed.set()
        for watcher in self._watchers:
            watcher.join()

    def close(self) -> None:
        """Close the connections."""
        if self._registry is not None:
            self._registry.close()
        if self._http is not None:
            self._http.close()
