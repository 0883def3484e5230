"""How requests are authorized: the registry's challenge, bearer tokens from its token server, and basic credentials.

Follows the distribution project's "Token Authentication Specification" and RFC 7235 for challenges.
"""

from __future__ import annotations

import binascii
import json
import re
import threading
import time
from urllib.parse import urlencode

from stagewright.errors import RegistryError
from stagewright.patterns import pattern
from stagewright.records import dataclass, field
from stagewright.registry.connection import Headers
from stagewright.registry.credentials import Credential, CredentialStore
from stagewright.registry.errors import UnauthorizedError, UnreachableError
from stagewright.registry.hosts import Host, is_loopback
from stagewright.registry.http import HttpClient, Response, split_url

_MAX_TOKEN_ANSWER = 1 << 20
_DEFAULT_LIFETIME_S = 60
_CLIENT_ID = "stagewright"

_SCHEME = pattern(r"[\s,]*([A-Za-z][A-Za-z0-9_-]*)(?:\s+|$)")
_PARAMETER = pattern(r'[\s,]*([A-Za-z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a WWW-Authenticate header; scheme and parameter names are in lower case."""

    scheme: str
    parameters: dict[str, str]


@dataclass(slots=True)
class _HostState:
    lock: threading.Lock = field(default_factory=threading.Lock)
    challenge: Challenge | None = None
    # Authorization header and the monotonic time until which it is good, by scopes.
    tokens: dict[frozenset[str], tuple[str, float]] = field(default_factory=dict)


def parse_challenges(headers: Headers) -> list[Challenge]:
    """The challenges of all WWW-Authenticate headers, in order; what cannot be understood is skipped."""
    challenges = []
    for text in headers.get_all("WWW-Authenticate") or []:
        position = 0
        while scheme := _SCHEME.match(text, position):
            position, parameters = scheme.end(), {}
            while parameter := _PARAMETER.match(text, position):
                name, quoted, plain = parameter.groups()
                parameters[name.lower()] = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                position = parameter.end()
            challenges.append(Challenge(scheme.group(1).lower(), parameters))
    return challenges


class Authorizer:
    """Finds the Authorization header for a host and a set of scopes. Safe for use by several threads."""

    def __init__(self, http: HttpClient, credentials: CredentialStore) -> None:
        self._http = http
        self._credentials = credentials
        self._lock = threading.Lock()
        self._states: dict[str, _HostState] = {}

    def header(self, host: Host, scheme: str, scopes: frozenset[str]) -> str | None:
        """The header to begin with: None until the host has asked for one.

        `scheme` is how the host is reached, http or https. Raises UnauthorizedError and UnreachableError as `answer()`.
        """
        state = self._state(host)
        with state.lock:
            if state.challenge is None:
                return None
            if state.challenge.scheme == "basic" and self._credentials.get(host.name) is None:
                # It may ask for them to push only.
                return None
            return self._authorize(state, host, scheme, state.challenge, scopes)

    def answer(self, host: Host, scheme: str, response: Response, scopes: frozenset[str], sent: str | None) -> str:
        """The header that answers a response of status 401; `sent` is the header that it refused.

        Raises UnauthorizedError where there are no credentials to try or they were refused, UnreachableError where the
        token server does not answer, RegistryError where it answers nonsense.
        """
        challenges = {challenge.scheme: challenge for challenge in reversed(parse_challenges(response.headers))}
        challenge = challenges.get("bearer") or challenges.get("basic")
        if challenge is None:
            raise UnauthorizedError(f"{host.name} asks for credentials in no way that is known")
        state = self._state(host)
        with state.lock:
            state.challenge = challenge
            known = state.tokens.get(scopes)
            if known is not None and known[0] == sent:
                del state.tokens[scopes]
            header = self._authorize(state, host, scheme, challenge, scopes)
        if challenge.scheme == "basic" and header == sent:
            raise UnauthorizedError(f"{host.name} refused the credentials", hint=_login_hint(host))
        return header

    def _state(self, host: Host) -> _HostState:
        with self._lock:
            return self._states.setdefault(host.name, _HostState())

    def _authorize(
        self, state: _HostState, host: Host, scheme: str, challenge: Challenge, scopes: frozenset[str]
    ) -> str:
        if challenge.scheme == "basic":
            credential = self._credentials.get(host.name)
            if credential is None or not credential.username:
                raise UnauthorizedError(f"{host.name} asks for credentials", hint=_login_hint(host))
            return _basic(credential)
        known = state.tokens.get(scopes)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        token, lifetime_s = self._fetch_token(host, scheme, challenge, scopes)
        header = f"Bearer {token}"
        # A token that ends in the middle of an upload costs the upload.
        state.tokens[scopes] = (header, time.monotonic() + lifetime_s * 0.8)
        return header

    def _fetch_token(self, host: Host, scheme: str, challenge: Challenge, scopes: frozenset[str]) -> tuple[str, float]:
        realm = challenge.parameters.get("realm", "")
        credential = self._credentials.get(host.name)
        origin, target = split_url(realm)
        if credential is not None and scheme == "https" and origin.scheme == "http" and not is_loopback(origin.host):
            raise RegistryError(f"{host.name} wants its credentials sent to {origin.netloc} without encryption")
        wanted = _merge_scopes(scopes, challenge.parameters.get("scope", ""))
        query = [("service", challenge.parameters["service"])] if "service" in challenge.parameters else []
        headers: dict[str, str] = {}
        if credential is not None and credential.identity_token:
            form = [*query, ("scope", " ".join(wanted)), ("client_id", _CLIENT_ID), ("grant_type", "refresh_token")]
            form.append(("refresh_token", credential.identity_token))
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            response = self._http.request("POST", realm, headers, urlencode(form).encode(), secret_body=True)
        else:
            query += [("scope", scope) for scope in wanted]
            if credential is not None:
                query.append(("account", credential.username))
                headers["Authorization"] = _basic(credential)
            separator = "&" if "?" in target else "?"
            url = f"{origin.scheme}://{origin.netloc}{target}{separator}{urlencode(query)}"
            response = self._http.request("GET", url, headers)
        with response:
            return _read_token(response, host)


def _read_token(response: Response, host: Host) -> tuple[str, float]:
    server = response.origin.netloc
    if response.status in (401, 403):
        raise UnauthorizedError(f"{server} refused to give a token for {host.name}", hint=_login_hint(host))
    if response.status == 429 or response.status >= 500:
        raise UnreachableError(f"{server}: the token server answered with status {response.status}", connected=True)
    if response.status != 200:
        raise RegistryError(f"{server}: the token server answered with status {response.status}")
    try:
        answer = json.loads(response.read_all(_MAX_TOKEN_ANSWER))
    except (ValueError, RecursionError):
        answer = None
    token = (answer.get("token") or answer.get("access_token")) if isinstance(answer, dict) else None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise RegistryError(f"{server}: the token server did not answer with a token")
    lifetime = answer.get("expires_in")
    is_number = isinstance(lifetime, int | float) and not isinstance(lifetime, bool) and lifetime > 0
    return token, float(min(lifetime, 86400)) if is_number else _DEFAULT_LIFETIME_S


def _merge_scopes(scopes: frozenset[str], more: str) -> list[str]:
    """All scopes, sorted, but for those of `more` (separated by spaces) whose actions others include."""
    actions = {resource: set(names.split(",")) for resource, _, names in (scope.rpartition(":") for scope in scopes)}
    merged = set(scopes)
    for scope in more.split():
        resource, _, names = scope.rpartition(":")
        if not set(names.split(",")) <= actions.get(resource, set()):
            merged.add(scope)
    return sorted(merged)


def _basic(credential: Credential) -> str:
    pair = f"{credential.username}:{credential.password}"
    return "Basic " + binascii.b2a_base64(pair.encode(), newline=False).decode()


def _login_hint(host: Host) -> str:
    return f"log in with: docker login {host.name}"
