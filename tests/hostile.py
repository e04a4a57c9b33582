"""Payloads that no edge should send."""

from __future__ import annotations

import random

import zstandard

from flexspec_mq.codec import Codec
from lab.simulator.world import FINGERPRINT
from schemas.messages import Fin, Identity, Open, Sampling, Verdict

CODEC = Codec()


def opening(session: int = 7, *, fingerprint: bytes = FINGERPRINT, limit: int = 40) -> Open:
    identity = Identity(2, fingerprint, Sampling(seed=1), (), True, limit)
    return Open(session, 1, identity, (1, 2, 3), (), 0, 1, ())


def hostile() -> list[bytes]:
    """Payloads that cannot be read: truncated, too long, of another version, a bomb, noise, a worker's own."""
    whole = CODEC.encode(opening())
    bomb = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=1
        )
    ).compress(bytes(64 * 1024 * 1024))
    return [
        b"",
        b"\x00",
        whole[: len(whole) // 2],
        whole + b"\x00",
        bytes([whole[0] | 0xE0]) + whole[1:],
        b"\x01" + bomb,
        b"\x00" + b"\x91" * 50_000,
        CODEC.encode(Verdict(7, 1, 0, 0, (), 0, Fin.NONE, 0, 0)),
        b"{}",
        random.Random(1).randbytes(5000),
    ]
