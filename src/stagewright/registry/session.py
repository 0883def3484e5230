"""Authorized requests to one host after another, and what a registry's answers mean."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import urlencode

from stagewright.errors import CanceledError, IntegrityError, NotFoundError, RegistryError
from stagewright.redaction import redact_text
from stagewright.registry.auth import Authorizer
from stagewright.registry.credentials import CredentialStore
from stagewright.registry.errors import StatusError, UnauthorizedError, UnreachableError
from stagewright.registry.hosts import Host
from stagewright.registry.http import Body, HttpClient, Response, split_url

T = TypeVar("T")

_MAX_ERROR_BODY = 64 << 10
_MAX_ERROR_TEXT = 500
_MAX_WAIT_S = 60.0
_FIRST_WAIT_S = 0.25
# For how long a mirror that could not be reached is passed over.
_MIRROR_REST_S = 60.0


class Session:
    """Requests with the right scheme and Authorization header. Safe for use by several threads."""

    def __init__(self, http: HttpClient, credentials: CredentialStore) -> None:
        self.http = http
        self._authorizer = Authorizer(http, credentials)
        self._lock = threading.Lock()
        self._schemes: dict[str, str] = {}
        self._resting: dict[str, float] = {}

    def request(
        self,
        host: Host,
        method: str,
        path: str,
        scopes: frozenset[str],
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
    ) -> Response:
        """Send a request for `path` (beginning with a slash) on `host`, authorized for `scopes`.

        The response may have any status but 401. Raises UnauthorizedError, UnreachableError, RegistryError.
        """
        if host.namespace is not None:
            path += ("&" if "?" in path else "?") + urlencode({"ns": host.namespace})
        scheme = self._scheme(host)
        return self.request_url(host, method, f"{scheme}://{host.address}{path}", scopes, headers=headers, body=body)

    def request_url(
        self,
        host: Host,
        method: str,
        url: str,
        scopes: frozenset[str],
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
    ) -> Response:
        """As `request`, for a whole URL that `host` named; on another origin than the host's own, unauthorized."""
        scheme = self._scheme(host)
        origin = split_url(f"{scheme}://{host.address}")[0]
        own = split_url(url)[0] == origin
        sent = self._authorizer.header(host, scheme, scopes) if own else None
        for _ in range(2):
            authorization = {"Authorization": sent} if sent else {}
            response = self.http.request(method, url, {**(headers or {}), **authorization}, body)
            if response.status != 401 or not own or response.origin != origin:
                return response
            with response:
                said = error_text(response)
                sent = self._authorizer.answer(host, scheme, response, scopes, sent)
        authorization = {"Authorization": sent} if sent else {}
        response = self.http.request(method, url, {**(headers or {}), **authorization}, body)
        if response.status == 401:
            response.close()
            raise UnauthorizedError(
                f"{host.name} denied access{said}",
                hint=f"the repository may not exist, or may need: docker login {host.name}",
            )
        return response

    def first_of(self, hosts: Sequence[Host], attempt: Callable[[Host], T]) -> T:
        """The result of the first host for which `attempt` succeeds; the last host's error where none does.

        What the other hosts had to say is the error's hint. Mirrors that could not be connected to are passed over for
        a while.
        """
        failures: list[str] = []
        for host in hosts[:-1]:
            if self._resting.get(host.name, 0.0) > time.monotonic():
                continue
            try:
                return attempt(host)
            except (RegistryError, IntegrityError, NotFoundError) as error:
                failures.append(f"mirror {host.name}: {error.message}")
                if isinstance(error, UnreachableError) and not error.connected:
                    self._resting[host.name] = time.monotonic() + _MIRROR_REST_S
        try:
            return attempt(hosts[-1])
        except (RegistryError, IntegrityError, NotFoundError) as error:
            if failures:
                error.hint = "; ".join([*failures, error.hint] if error.hint else failures)
            raise

    def _scheme(self, host: Host) -> str:
        """http or https; which of them a loopback host speaks is found out once."""
        if len(host.schemes) == 1:
            return host.schemes[0]
        with self._lock:
            known = self._schemes.get(host.address)
        if known is not None:
            return known
        first_error: RegistryError | None = None
        for scheme in host.schemes:
            try:
                with self.http.request("GET", f"{scheme}://{host.address}/v2/") as response:
                    # What TLS servers answer to a request without TLS.
                    speaks = scheme == "https" or response.status != 400
            except RegistryError as error:
                first_error = first_error or error
                continue
            if speaks:
                with self._lock:
                    self._schemes[host.address] = scheme
                return scheme
        # One of them is https, which speaks or fails.
        assert first_error is not None
        raise first_error


def check_status(response: Response, expected: Sequence[int], what: str) -> None:
    """Raise the error that the response's status stands for, unless it is an expected one.

    404 is NotFoundError, 401 and 403 UnauthorizedError, 429 and 5xx UnreachableError, all else StatusError. `what`
    names what was asked for. The registry's own message is part of the error's.
    """
    status = response.status
    if status in expected:
        return
    said = error_text(response)
    if status == 404:
        raise NotFoundError(f"{what}: not found{said}")
    if status in (401, 403):
        raise UnauthorizedError(f"{what}: {response.origin.netloc} denied access{said}")
    message = f"{what}: {response.origin.netloc} answered with status {status}{said}"
    if status == 429 or status >= 500:
        raise UnreachableError(message, connected=True, retry_after_s=_retry_after(response))
    raise StatusError(message, status=status)


def error_text(response: Response) -> str:
    """The messages of a registry's JSON error body as ": message; message", or "".

    They are safe to show on a terminal, and hold no credentials, even if the registry repeats those that it was sent.
    """
    try:
        document = json.loads(response.read_all(_MAX_ERROR_BODY))
        errors = document["errors"]
        messages = [error.get("message") or error.get("code") for error in errors]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError, RegistryError):
        # Not every server in front of a registry speaks its protocol; the status is what counts.
        return ""
    text = "; ".join(message for message in messages if isinstance(message, str))
    text = redact_text("".join(char for char in text if char.isprintable()))
    shown = _without_authorization(text, response.authorization)[:_MAX_ERROR_TEXT]
    return f": {shown}" if shown else ""


def _without_authorization(text: str, authorization: str) -> str:
    if not authorization:
        return text
    import base64

    from stagewright.secrecy.masks import Masks

    scheme, _, credentials = authorization.partition(" ")
    values = [credentials.encode()]
    if scheme == "Basic":
        values.append(base64.b64decode(credentials).partition(b":")[2])
    return Masks(values).text(text)


def retrying(attempt: Callable[[], T], cancel: threading.Event | None, attempts: int) -> T:
    """Call `attempt` until it raises no UnreachableError, at most `attempts` times, waiting longer each time.

    A registry that cannot be connected to is not asked again. Raises CanceledError once `cancel` is set.
    """
    for number in range(1, attempts):
        check_cancel(cancel)
        try:
            return attempt()
        except UnreachableError as error:
            if not error.connected:
                raise
            back_off(number, cancel, error.retry_after_s)
    check_cancel(cancel)
    return attempt()


def back_off(failures: int, cancel: threading.Event | None, retry_after_s: float | None = None) -> None:
    """Wait before the next attempt after so many failures, or as long as the registry asked for, up to a minute."""
    wait_s = min(_FIRST_WAIT_S * 2 ** (failures - 1) if retry_after_s is None else retry_after_s, _MAX_WAIT_S)
    if (cancel or threading.Event()).wait(wait_s):
        raise CanceledError


def check_cancel(cancel: threading.Event | None) -> None:
    """Raise CanceledError where `cancel` is set."""
    if cancel is not None and cancel.is_set():
        raise CanceledError


def _retry_after(response: Response) -> float | None:
    text = (response.headers.get("Retry-After") or "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
