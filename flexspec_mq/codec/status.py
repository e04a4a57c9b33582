"""Retained status documents: JSON, because people and dashboards read them."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from flexspec_mq.codec.limits import MAX_STATUS_BYTES
from flexspec_mq.errors import LocalProtocolError, RemoteProtocolError
from schemas.status import EdgeStatus, WorkerStatus

StatusT = TypeVar("StatusT", WorkerStatus, EdgeStatus)


def encode_status(status: StatusT) -> bytes:
    """Write a status document.

    Raises:
        LocalProtocolError: a field is out of bounds, so that no reader would accept it.
    """
    document = msgspec.json.encode(status)
    try:
        decode_status(document, type(status))
    except RemoteProtocolError as error:
        raise LocalProtocolError(f"{type(status).__name__} cannot be encoded: {error}") from error
    return document


def decode_status(payload: bytes, kind: type[StatusT]) -> StatusT:
    """Read a status document of a known kind; fields that it does not know are skipped.

    Raises:
        RemoteProtocolError: too large, not JSON, a field missing, of the wrong type or out of bounds. An
            empty payload is refused too; on a retained topic it says that nothing is retained any more, which
            is the caller's to know.
    """
    if len(payload) > MAX_STATUS_BYTES:
        raise RemoteProtocolError(f"the status has {len(payload)} bytes, more than {MAX_STATUS_BYTES}")
    try:
        return msgspec.json.decode(payload, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RemoteProtocolError(f"{kind.__name__}: {error}") from error
