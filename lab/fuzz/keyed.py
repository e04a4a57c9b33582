"""Readers before the codec where there are keys: envelopes, credentials, statements."""

from collections.abc import Callable
from typing import NamedTuple

from flexspec_mq.codec import Codec
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.keys.agreement import new_opening_secrets
from flexspec_mq.keys.documents import DeploymentKey, KeyRole, sign_statement
from flexspec_mq.keys.edge import EdgeKeys
from flexspec_mq.keys.envelope import key_wanted
from flexspec_mq.keys.identity_file import KeyIdentity
from flexspec_mq.keys.refusals import KeysRefused
from flexspec_mq.keys.trust import Trust
from flexspec_mq.keys.worker import WorkerKeys
from schemas.messages import Fin, Identity, Open, Poll, Sampling, Verdict
from schemas.statement import UNDATED
from schemas.status import WorkerStatus

_CODEC = Codec()
_EDGE, _WORKER, _VERSION = "edge", "w1", "v"
_OPEN = Open(
    7, 1, Identity(1, bytes(16), Sampling(0.7, 40, 0.95, 1), (2,), False, 64), (30, 216, 34), (), 16, 1, ()
)
_POLL = Poll(7, 1, 2, 0, 0, 5, (), 0)
_VERDICT = Verdict(7, 1, 2, 0, (198, 30), 5, Fin.NONE, 3, 61)


class Reader(NamedTuple):
    """Something that reads bytes, and what it reads."""

    read: Callable[[bytes], str]
    seeds: list[bytes]


def readers() -> dict[str, Reader]:
    """A worker, a device, a device when a status comes, and either of them when a statement does."""
    up: list[bytes] = []
    down: list[bytes] = [key_wanted(7)]
    key, opening = DeploymentKey.generate(), new_opening_secrets()
    statement = sign_statement(key, 1, opening.public(()), (), UNDATED)
    as_edge = KeyIdentity.make(key, KeyRole.EDGE, _EDGE, statement)
    as_worker = KeyIdentity.make(key, KeyRole.WORKER, _WORKER, statement, opening=opening)
    edge = EdgeKeys(as_edge)
    worker = WorkerKeys(as_worker, lease=60, capacity=64)
    edge.begin(7, _VERSION)
    up.append(edge.wrap(_OPEN, None, _CODEC.encode(_OPEN), 0.0))
    worker.unwrap(_EDGE, _VERSION, up[-1], 0.0)
    down.append(worker.wrap(_EDGE, 7, _CODEC.encode(_VERDICT), 0.0))
    edge.unwrap(down[-1], 0.0)
    up.append(edge.wrap(_POLL, _WORKER, _CODEC.encode(_POLL), 0.0))
    worker.unwrap(_EDGE, None, up[-1], 0.0)
    # These have not come yet; all others would be copies.
    up.append(edge.wrap(_POLL, _WORKER, _CODEC.encode(_POLL), 0.0))
    down.append(worker.wrap(_EDGE, 7, _CODEC.encode(_VERDICT), 0.0))
    trust = Trust(as_edge)
    status = WorkerStatus(
        state="online", epoch=1, at=1.0, worker=_WORKER, version=_VERSION, credential=worker.status_credential
    )
    return {
        "keys at a worker": Reader(lambda data: _at_worker(worker, data), up),
        "keys at an edge": Reader(lambda data: _at_edge(edge, data), down),
        "statement": Reader(lambda data: _statement(trust, data), [statement]),
        "signed status": Reader(
            lambda data: _signed_status(edge, data), [worker.signed_status(_CODEC.encode_status(status))]
        ),
    }


def _at_worker(worker: WorkerKeys, data: bytes) -> str:
    try:
        worker.unwrap(_EDGE, _VERSION, data, 0.0)
    except KeysRefused as error:
        return f"refused: {error.message}"
    return "message"


def _at_edge(edge: EdgeKeys, data: bytes) -> str:
    if edge.wanted(data) is not None:
        return "key wanted"
    try:
        edge.unwrap(data, 0.0)
    except KeysRefused as error:
        return f"refused: {error.message}"
    return "message"


def _signed_status(edge: EdgeKeys, data: bytes) -> str:
    try:
        return f"of {edge.signer_of(_CODEC.decode_status(data, WorkerStatus), data).name}"
    except RemoteProtocolError as error:
        return f"refused: {error.message}"


def _statement(trust: Trust, data: bytes) -> str:
    try:
        return f"statement, newer: {trust.take(data)}"
    except KeysRefused as error:
        return f"refused: {error.message}"
