"""The cache service of GitHub Actions in small: both versions of its interface, and the storage behind signed URLs.

As the real one it keeps entries by git ref, key and version, never changes one, finds the newest by the beginning of a
key, shows none before it is committed, and lets a job read those of its own ref and of the default branch. The storage
knows signed URLs and nobody's token.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def token(*scopes: tuple[str, int]) -> str:
    """A job's token: the git refs that it is for, with 1 to read and 2 to write."""
    claims = {"ac": json.dumps([{"Scope": scope, "Permission": permission} for scope, permission in scopes])}
    parts = [json.dumps({"alg": "none"}), json.dumps(claims), "signature-of-a-test"]
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


@dataclass
class Entry:
    """What was reserved; it can be found once it is committed."""

    scope: str
    key: str
    version: str
    parts: dict[int, bytes] = field(default_factory=dict)
    blocks: dict[str, bytes] = field(default_factory=dict)
    content: bytes | None = None


class ActionsCache:
    """A server on a free loopback port. `uploads` are the keys that were committed, `asked` all paths."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.uploads: list[str] = []
        self.asked: list[str] = []
        self.broken = 0
        self.api_token = "token-of-the-api-of-a-test"
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                service._answer(self, self.rfile.read(length))

            do_GET = do_POST = do_PATCH = do_PUT = _any

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        path = urllib.parse.urlsplit(handler.path)
        query = dict(urllib.parse.parse_qsl(path.query))
        with self._lock:
            self.asked.append(path.path)
            if path.path.startswith("/storage/"):
                self._storage(handler, int(path.path.rpartition("/")[2]), query, body)
                return
            if path.path.startswith("/repos/"):
                self._list(handler, query)
                return
            scopes = self._scopes(handler)
            if scopes is None:
                _reply(handler, 401, {"message": "no token"})
            elif path.path.startswith("/_apis/artifactcache/"):
                self._first(handler, path.path.removeprefix("/_apis/artifactcache/"), query, body, scopes)
            elif path.path.startswith("/twirp/github.actions.results.api.v1.CacheService/"):
                self._second(handler, path.path.rpartition("/")[2], json.loads(body), scopes)
            else:
                _reply(handler, 404, {"message": "no such path"})

    def _list(self, handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        """GitHub's API, which has a token of its own and lists some entries a page."""
        if handler.headers.get("Authorization") != f"Bearer {self.api_token}":
            _reply(handler, 401, {"message": "Bad credentials"})
            return
        entries = [
            {"id": number, "ref": entry.scope, "key": entry.key, "version": entry.version}
            for number, entry in enumerate(self.entries)
            if entry.content is not None and entry.scope == query["ref"] and entry.key.startswith(query["key"])
        ]
        start = (int(query["page"]) - 1) * int(query["per_page"])
        shown = entries[start : start + int(query["per_page"])]
        _reply(handler, 200, {"total_count": len(entries), "actions_caches": shown})

    def _scopes(self, handler: BaseHTTPRequestHandler) -> list[tuple[str, int]] | None:
        scheme, _, given = (handler.headers.get("Authorization") or "").partition(" ")
        if scheme != "Bearer":
            return None
        payload = given.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return [(entry["Scope"], entry["Permission"]) for entry in json.loads(claims["ac"])]

    def _find(self, keys: list[str], version: str, scopes: list[tuple[str, int]]) -> int | None:
        for scope, _ in scopes:
            for key in keys:
                for number in range(len(self.entries) - 1, -1, -1):
                    entry = self.entries[number]
                    same = (entry.scope, entry.version) == (scope, version)
                    if same and entry.content is not None and entry.key.startswith(key):
                        return number
        return None

    def _reserve(self, key: str, version: str, scopes: list[tuple[str, int]]) -> int | None:
        scope = next(scope for scope, permission in scopes if permission & 2)
        if any((entry.scope, entry.key, entry.version) == (scope, key, version) for entry in self.entries):
            return None
        self.entries.append(Entry(scope, key, version))
        return len(self.entries) - 1

    def _commit(self, number: int, content: bytes, size: int) -> bool:
        if len(content) != size:
            return False
        self.entries[number].content = content
        self.uploads.append(self.entries[number].key)
        return True

    def _first(
        self,
        handler: BaseHTTPRequestHandler,
        path: str,
        query: dict[str, str],
        body: bytes,
        scopes: list[tuple[str, int]],
    ) -> None:
        if handler.command == "GET" and path == "cache":
            number = self._find(query["keys"].split(","), query["version"], scopes)
            if number is None:
                _reply(handler, 204, None)
            else:
                entry = self.entries[number]
                location = f"{self.url}storage/{number}?sig=signature"
                _reply(handler, 200, {"cacheKey": entry.key, "scope": entry.scope, "archiveLocation": location})
        elif handler.command == "POST" and path == "caches":
            request = json.loads(body)
            number = self._reserve(request["key"], request["version"], scopes)
            if number is None:
                _reply(handler, 409, {"typeKey": "ArtifactCacheItemAlreadyExistsException", "message": "taken"})
            else:
                _reply(handler, 201, {"cacheId": number + 1})
        elif handler.command == "PATCH":
            span = re.fullmatch(r"bytes (\d+)-(\d+)/\*", handler.headers["Content-Range"])
            assert span is not None and int(span[2]) - int(span[1]) + 1 == len(body)
            self.entries[int(path.rpartition("/")[2]) - 1].parts[int(span[1])] = body
            _reply(handler, 204, None)
        else:
            number = int(path.rpartition("/")[2]) - 1
            content = b"".join(data for _, data in sorted(self.entries[number].parts.items()))
            taken = self._commit(number, content, json.loads(body)["size"])
            _reply(handler, 204 if taken else 400, None)

    def _second(
        self, handler: BaseHTTPRequestHandler, method: str, request: dict[str, object], scopes: list[tuple[str, int]]
    ) -> None:
        key, version = str(request["key"]), str(request["version"])
        if method == "GetCacheEntryDownloadURL":
            restore = request.get("restore_keys") or []
            assert isinstance(restore, list)
            number = self._find([key, *restore], version, scopes)
            if number is None:
                _reply(handler, 200, {"ok": False, "signed_download_url": "", "matched_key": ""})
            else:
                url = f"{self.url}storage/{number}?sig=signature"
                _reply(handler, 200, {"ok": True, "signed_download_url": url, "matched_key": self.entries[number].key})
        elif method == "CreateCacheEntry":
            number = self._reserve(key, version, scopes)
            if number is None:
                _reply(handler, 409, {"code": "already_exists", "msg": "taken"})
            else:
                _reply(handler, 200, {"ok": True, "signed_upload_url": f"{self.url}storage/{number}?sig=signature"})
        else:
            number = max(n for n, entry in enumerate(self.entries) if (entry.key, entry.version) == (key, version))
            content = b"".join(data for _, data in sorted(self.entries[number].parts.items()))
            size = request["size_bytes"]
            assert isinstance(size, int)
            _reply(handler, 200, {"ok": self._commit(number, content, size), "entry_id": str(number)})

    def _storage(self, handler: BaseHTTPRequestHandler, number: int, query: dict[str, str], body: bytes) -> None:
        entry = self.entries[number]
        if query.get("sig") != "signature" or handler.headers.get("Authorization"):
            _reply(handler, 403, None)
        elif handler.command == "GET":
            self._download(handler, entry)
        elif query.get("comp") == "block":
            entry.blocks[query["blockid"]] = body
            _reply(handler, 201, None)
        elif query.get("comp") == "blocklist":
            names = re.findall("<Latest>(.*?)</Latest>", body.decode())
            entry.parts = {0: b"".join(entry.blocks[name] for name in names)}
            _reply(handler, 201, None)
        elif handler.headers.get("x-ms-blob-type") == "BlockBlob":
            entry.parts = {0: body}
            _reply(handler, 201, None)
        else:
            _reply(handler, 400, None)

    def _download(self, handler: BaseHTTPRequestHandler, entry: Entry) -> None:
        assert entry.content is not None
        span = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "bytes=0-")
        assert span is not None
        content = entry.content[int(span[1]) :]
        handler.send_response(206 if "Range" in handler.headers else 200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        if self.broken and len(content) > 1000:
            # The connection breaks in the middle.
            self.broken -= 1
            handler.wfile.write(content[: len(content) // 2])
            handler.wfile.flush()
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        handler.wfile.write(content)


def _reply(handler: BaseHTTPRequestHandler, status: int, document: object) -> None:
    body = b"" if document is None else json.dumps(document).encode()
    handler.send_response(status)
    if status != 204:
        handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
