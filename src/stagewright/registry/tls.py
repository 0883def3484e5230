"""TLS settings of a registry: what is trusted, and which client certificate is shown."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from stagewright.config import KeyPair, RegistryTable
from stagewright.errors import UsageError

if TYPE_CHECKING:
    import ssl

# Where distributions keep their trust store, for an OpenSSL that was built to look elsewhere.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def tls_context(table: RegistryTable) -> ssl.SSLContext:
    """The client's TLS context for a registry with this table.

    The system's trust store (or SSL_CERT_FILE and SSL_CERT_DIR) is trusted, and the table's own authorities on top of
    it. Raises UsageError for a file that cannot be used, by name.
    """
    import ssl

    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if paths.cafile is None and paths.capath is None:
        for bundle in _BUNDLES:
            if os.path.exists(bundle):
                context.load_verify_locations(bundle)
                break
    if table.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    authorities, key_pairs = list(table.ca), list(table.key_pairs)
    for directory in table.tls_config_dirs:
        more_authorities, more_pairs = _scan(directory)
        authorities += more_authorities
        key_pairs += more_pairs
    for path in authorities:
        try:
            context.load_verify_locations(path)
        except OSError as error:
            raise UsageError(f"cannot use the certificate authority {path}: {error.strerror}") from error
    for pair in key_pairs:
        try:
            context.load_cert_chain(pair.cert, pair.key)
        except OSError as error:
            raise UsageError(f"cannot use the key pair {pair.cert}, {pair.key}: {error.strerror}") from error
    return context


def _scan(directory: str) -> tuple[list[str], list[KeyPair]]:
    """Authorities (`*.crt`) and key pairs (`*.cert` with `*.key`) in a directory laid out as Docker's certs.d."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        raise UsageError(f"cannot read the directory {directory}: {error.strerror}") from error
    authorities = [os.path.join(directory, name) for name in names if name.endswith(".crt")]
    stems = [os.path.join(directory, name.removesuffix(".cert")) for name in names if name.endswith(".cert")]
    return authorities, [KeyPair(key=f"{stem}.key", cert=f"{stem}.cert") for stem in stems]
