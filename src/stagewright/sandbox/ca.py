"""Where this machine keeps the certificate authorities that it trusts, for steps that shall trust them too."""

from __future__ import annotations

import os
from collections.abc import Mapping

from stagewright.errors import NotFoundError

# Debian and Alpine, Fedora and RHEL, openSUSE, and OpenSSL's own default.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def find_host_bundle(env: Mapping[str, str]) -> str:
    """The path of the host's CA bundle: that of SSL_CERT_FILE, else where distributions keep it.

    Raises NotFoundError where there is none.
    """
    for path in (env.get("SSL_CERT_FILE", ""), *_BUNDLES):
        if path and os.path.isfile(path):
            return path
    raise NotFoundError("this machine has no CA bundle for steps to trust", hint="install ca-certificates")
