"""zstd, where it pays.

Frames are magicless and carry neither checksum nor dictionary id: the flag byte says what they are, TCP has
its own checksum, and every token is under the protocol's digest. They do carry their content size, in zstd's
own header: there it replaces the window descriptor, so that it costs one or two bytes where a field of ours
would cost more. python-zstandard allocates whatever size a frame declares, so the header is judged first.

A frame that unpacks to more than `most_unpacked` is neither made nor read. The cost of such a message to its receiver
would otherwise have no proportion to what it costs its sender; it travels as it is.
"""

import threading
from functools import cache
from pathlib import Path
from typing import Final

import zstandard

from flexspec_mq.codec.limits import FREE_BYTES, MAX_BODY_BYTES, MAX_EXPANSION
from flexspec_mq.errors import RemoteProtocolError
from schemas.messages import KEYED

PLAIN: Final = 0
ZSTD: Final = 1
DICTIONARIES: Final[dict[int, str]] = {2: "dictionary-v1"}
"""Compression code of the flag byte → file beside this module. Append only."""

CURRENT: Final = max(DICTIONARIES, default=ZSTD)
"""Compression code that we send."""

MIN_BYTES: Final = 64
"""Below, the frame's header costs more than a dictionary saves."""

LEVEL: Final = 19
"""Slow per byte, but messages are small: 6 % smaller opens than level 9 for a tenth of a millisecond."""

_contexts = threading.local()
_dictionary_lock = threading.Lock()


def compress(body: bytes) -> tuple[int, bytes]:
    """Return the compression code and the bytes to send: compressed only if that is smaller, and may be read."""
    if len(body) < MIN_BYTES:
        return PLAIN, body
    smaller = _compressor().compress(body)
    pays = len(smaller) < len(body) <= most_unpacked(len(smaller))
    return (CURRENT, smaller) if pays else (PLAIN, body)


def most_unpacked(size: int) -> int:
    """Bytes that a frame of so many bytes may unpack to."""
    return min(MAX_BODY_BYTES, max(FREE_BYTES, MAX_EXPANSION * size))


def decompress(code: int, data: memoryview) -> bytes | memoryview:
    """Undo `compress`.

    Raises:
        RemoteProtocolError: an unknown code, a broken frame, one of unknown or excessive size, or bytes after
            it.
    """
    if code == PLAIN:
        return data
    if code == KEYED:
        raise RemoteProtocolError(
            "the payload is under keys, and this side has none", hint="give this side its file of --keys"
        )
    if code != ZSTD and code not in DICTIONARIES:
        raise RemoteProtocolError(f"compression {code} is unknown here", hint="update this side")
    try:
        header = zstandard.get_frame_parameters(data, zstandard.FORMAT_ZSTD1_MAGICLESS)
        most = most_unpacked(len(data))
        if header.content_size > most:  # an undeclared size reads as 2**64 - 1
            raise RemoteProtocolError(
                f"the frame of {len(data)} bytes declares no size, or more than {most} bytes"
            )
        return _decompressor(code).decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise RemoteProtocolError(f"the zstd frame is broken: {error}") from error


def _compressor() -> zstandard.ZstdCompressor:
    """Compressor of this thread: zstd contexts are not thread-safe."""
    compressor: zstandard.ZstdCompressor | None = getattr(_contexts, "compressor", None)
    if compressor is None:
        compressor = _contexts.compressor = make_compressor(dictionary(CURRENT))
    return compressor


def make_compressor(dictionary_data: zstandard.ZstdCompressionDict | None) -> zstandard.ZstdCompressor:
    """A compressor for the frames of this protocol."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=1,
        write_checksum=0,
        write_dict_id=0,
    )
    return zstandard.ZstdCompressor(dict_data=dictionary_data, compression_params=parameters)


def _decompressor(code: int) -> zstandard.ZstdDecompressor:
    """Decompressor of this thread for a code."""
    decompressors: dict[int, zstandard.ZstdDecompressor] | None = getattr(_contexts, "decompressors", None)
    if decompressors is None:
        decompressors = _contexts.decompressors = {}
    if code not in decompressors:
        decompressors[code] = zstandard.ZstdDecompressor(
            dict_data=dictionary(code),
            max_window_size=MAX_BODY_BYTES,
            format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        )
    return decompressors[code]


def dictionary(code: int) -> zstandard.ZstdCompressionDict | None:
    """The dictionary of a compression code, read on first use; None for zstd without one."""
    if code == ZSTD:
        return None
    with _dictionary_lock:
        return _load(DICTIONARIES[code])


@cache
def _load(name: str) -> zstandard.ZstdCompressionDict:
    data = Path(__file__).with_name(name).read_bytes()
    return zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_FULLDICT)
