"""Slows down who tries passwords: each address may be wrong a few times, then once in a while."""

import ipaddress
import time
from collections import OrderedDict

FREE_ERRORS = 20  # a browser with an old password is wrong once for every part of a page
EVERY_S = 10.0  # after these an address may be wrong again
REMEMBERED = 10_000  # addresses; the one that was wrong the longest time ago is forgotten first


class Attempts:
    """Counts wrong passwords by address. Those of one IPv6 network (/64) are one."""

    def __init__(self) -> None:
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # -> errors left, at (time.monotonic)

    def may_try(self, address: str) -> bool:
        """Whether a password from this address is looked at."""
        return self._errors_left(_network(address)) >= 1

    def was_wrong(self, address: str) -> None:
        """Count a wrong password."""
        network = _network(address)
        self._left[network] = self._errors_left(network) - 1, time.monotonic()
        self._left.move_to_end(network)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)

    def _errors_left(self, network: str) -> float:
        now_s = time.monotonic()
        left, at_s = self._left.get(network, (float(FREE_ERRORS), now_s))
        return min(float(FREE_ERRORS), left + (now_s - at_s) / EVERY_S)


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((int(found), 64), strict=False)) if found.version == 6 else address
