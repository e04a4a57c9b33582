from __future__ import annotations

import json
from typing import Any

import pytest

from flexspec_mq.codec import MAX_STATUS_BYTES, Codec
from flexspec_mq.errors import LocalProtocolError, RemoteProtocolError
from schemas.status import EdgeStatus, WorkerStatus

CODEC = Codec()

WORKER = WorkerStatus(
    state="online",
    epoch=1_700_000_000_123,
    at=1_700_000_000.5,
    worker="w1",
    version="v2",
    exactness="exact up to ties",
    flip_rate=0.001,
    load=3,
    capacity=16,
    lease=30,
)
EDGE = EdgeStatus(state="gone", epoch=1, at=2.0, edge="e1", sessions=4)


def test_round_trip_and_readable_json() -> None:
    assert CODEC.decode_status(CODEC.encode_status(WORKER), WorkerStatus) == WORKER
    assert CODEC.decode_status(CODEC.encode_status(EDGE), EdgeStatus) == EDGE
    assert json.loads(CODEC.encode_status(WORKER))["flip_rate"] == 0.001


def test_fields_of_a_newer_peer_are_skipped_and_missing_ones_have_defaults() -> None:
    newer = b'{"state":"online","epoch":1,"at":1,"worker":"w","mood":{"a":[1]}}'
    assert CODEC.decode_status(newer, WorkerStatus) == WorkerStatus(
        state="online", epoch=1, at=1.0, worker="w"
    )


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "truncated"),
        (b"not json", "invalid"),
        (b'{"state":"online"', "truncated"),
        (b"[]", "Expected `object`"),
        (b"\xff\xfe", "JSON is malformed"),
        (b'{"state":"online","epoch":1,"at":1}', "missing required field `worker`"),
        (b'{"state":"odd","epoch":1,"at":1,"worker":"w"}', r"Invalid enum value 'odd' - at `\$.state`"),
        (b'{"state":"online","epoch":-1,"at":1,"worker":"w"}', r">= 0 - at `\$.epoch`"),
        (b'{"state":"online","epoch":1,"at":NaN,"worker":"w"}', "invalid"),
        (b'{"state":"online","epoch":1,"at":1e999,"worker":"w"}', "out of range"),
        (b'{"state":"online","epoch":1,"at":1,"worker":"a/b"}', r"`\$.worker`"),
        (b'{"state":"online","epoch":1,"at":1,"worker":"w","device":"' + b"x" * 257 + b'"}', "length <= 256"),
        (b'{"state":"online","epoch":1,"at":1,"worker":"w","x":' + b"[" * 10_000 + b"]" * 1000, "recursion"),
        (b" " * (MAX_STATUS_BYTES + 1), "bytes, more than"),
    ],
)
def test_what_is_wrong_is_named(payload: bytes, says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says):
        CODEC.decode_status(payload, WorkerStatus)


@pytest.mark.parametrize("changes", [{"worker": ""}, {"at": float("nan")}, {"load": -1}, {"flip_rate": 2.0}])
def test_our_own_nonsense_is_our_own_bug(changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"state": "online", "epoch": 1, "at": 1.0, "worker": "w"}
    with pytest.raises(LocalProtocolError, match="WorkerStatus cannot be encoded"):
        CODEC.encode_status(WorkerStatus(**{**fields, **changes}))
