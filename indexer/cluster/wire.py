"""What crosses the network between the coordinator and a worker: plain values, packed with MessagePack.

Unpacking makes numbers, texts, bytes, lists and dicts, and runs no code. Dask itself pickles around it, see
docs/cluster.md.
"""

from typing import Any


def pack(value: Any) -> bytes:
    """Plain values as bytes; what UTF-8 has no form for is escaped."""
    import msgpack

    packed: bytes = msgpack.packb(value, unicode_errors="backslashreplace")
    return packed


def unpack(data: bytes) -> Any:
    """The inverse of ``pack``, with lists for tuples. Raises ValueError for anything that ``pack`` did not make."""
    import msgpack

    try:
        return msgpack.unpackb(data, strict_map_key=True)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise ValueError("not packed as it should be") from error
