"""Reads and checks the settings of a cluster: its address, certificates, folders and resources, before connecting.

``distributed`` is the one function that imports Dask, and it is called only where the settings name a cluster.
"""

import ipaddress
import os
from collections.abc import Iterable, Mapping
from typing import Any

from indexer.config import Settings
from indexer.errors import ConfigError
from indexer.wording import printable

INSTALL = "a cluster needs Dask: pip install 'edm-indexer[cluster]' here, at the scheduler and at every worker"
PLAIN = (
    "this connection is neither encrypted nor does it ask who connects: whoever reaches a Dask scheduler runs code on "
    "it and on all its workers; docs/cluster.md tells how to use TLS"
)


def distributed() -> Any:
    """The module ``distributed`` of Dask. Raises ConfigError where it is not installed."""
    try:
        import distributed as dask
    except ImportError as e:
        raise ConfigError(INSTALL) from e
    return dask


def scheduler_address(settings: Settings) -> str:
    """The address of the scheduler. Raises ConfigError where the setting is not a valid address."""
    address = settings.cluster or ""
    protocol, separator, rest = address.partition("://")
    host, colon, port = rest.rpartition(":")
    if not separator or protocol not in ("tcp", "tls") or not host or not colon or not port.isdecimal():
        raise ConfigError(
            f"cluster is '{address}': must be tcp://HOST:PORT or tls://HOST:PORT, such as tcp://127.0.0.1:8786"
        )
    return address


def is_open(address: str) -> bool:
    """Whether other machines could read the connection, or pretend to be the scheduler."""
    protocol, _, rest = address.partition("://")
    host = rest.rpartition(":")[0].strip("[]")
    if protocol == "tls" or host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True


def security(settings: Settings) -> Any:
    """Dask's Security with the certificates of the settings; None: Dask uses its own configuration.

    Raises ConfigError for a missing certificate, or certificates with an address that is not encrypted.
    """
    files = {"tls_ca": settings.tls_ca, "tls_cert": settings.tls_cert, "tls_key": settings.tls_key}
    address = scheduler_address(settings)
    given = [key for key, path in files.items() if path is not None]
    if given and not address.startswith("tls://"):
        raise ConfigError(
            f"{given[0]} is set and {address} is not encrypted: write tls:// "
            "(and give the scheduler and the workers their certificates)"
        )
    if not given:
        return None
    for key, path in files.items():
        if path is None:
            raise ConfigError(f"{key} is missing: TLS needs tls_ca, tls_cert and tls_key")
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{key}: {path} cannot be read")
    return distributed().Security(
        tls_ca_file=str(settings.tls_ca),
        tls_client_cert=str(settings.tls_cert),
        tls_client_key=str(settings.tls_key),
        require_encryption=True,
    )


def resources(settings: Settings) -> dict[str, float]:
    """The Dask resources that a worker must offer to embed. Raises ConfigError for an amount that is not positive."""
    found = {}
    for name, amount in settings.worker_resources.items():
        try:
            found[name] = float(amount)
        except ValueError:
            found[name] = -1.0
        if not 0 < found[name] < float("inf"):
            raise ConfigError(f"worker_resources: {name}={amount} is no amount; such as GPU=1")
    return found


class PathMap:
    """Translates paths of this machine to paths on the workers."""

    def __init__(self, folders: Mapping[str, str]) -> None:
        """``folders``: here to there. Raises ConfigError for a folder that is not absolute."""
        for here, there in folders.items():
            if not here.startswith("/") or not there.startswith("/"):
                raise ConfigError(f"map: {here}={there} must be two absolute folders, such as /mnt/music=/data/music")
        pairs = [
            (os.path.normpath(os.fsencode(here)), os.path.normpath(os.fsencode(there)))
            for here, there in folders.items()
        ]
        self._pairs = sorted(pairs, key=lambda pair: -len(pair[0]))  # the innermost folder decides

    def there(self, path: bytes) -> bytes:
        """The path on the workers of a path on this machine; without mapped folders, the same path.

        Raises ConfigError for a path outside the mapped folders.
        """
        if not self._pairs:
            return path
        plain = os.path.normpath(path)
        for here, there in self._pairs:
            if plain == here or plain.startswith(here.rstrip(b"/") + b"/"):
                return os.path.normpath(there.rstrip(b"/") + b"/" + plain[len(here) :].lstrip(b"/"))
        mapped = ", ".join(printable(here) for here, _ in self._pairs)
        raise ConfigError(
            f"{printable(path)}: lies outside the folders that --map names ({mapped}), so no worker may read it"
        )


def pairs(texts: Iterable[str], flag: str) -> dict[str, str] | None:
    """The values of a repeated flag LEFT=RIGHT as a dict; None when it was not given. Raises ConfigError."""
    found = {}
    for text in texts:
        left, equals, right = text.partition("=")
        if not (left and equals and right):
            raise ConfigError(f"{flag}: '{text}' is not of the form LEFT=RIGHT")
        found[left] = right
    return found or None
