"""The AsyncAPI 3.0 document: which messages travel on which topics, seen from an edge node."""

from typing import Any, Literal, NamedTuple

import msgspec

from schemas.asking import Answer, AnswerPiece, Ask, AskedStatus, AskError, AskErrorBody, AskUsage
from schemas.blobs import BlobPiece, BlobRequest
from schemas.catalogue import Catalogue, CatalogueVersion, KeySet, Signed
from schemas.jsonschema import Json, described
from schemas.messages import (
    PROTOCOL_VERSION,
    Close,
    Delivery,
    Draft,
    Error,
    Identity,
    Open,
    PartialSampling,
    Poll,
    Prefix,
    Sampling,
    Verdict,
)
from schemas.openai import FunctionCall, ToolCall
from schemas.statement import Statement
from schemas.status import (
    AddedToken,
    CatalogueStatus,
    EdgeStatus,
    TargetText,
    VersionFigures,
    VersionStatus,
    WorkerStatus,
)

PAYLOAD_TYPE = "application/vnd.flexspec-mq"
_ASKING = Ask, Answer, AnswerPiece, AskError, AskedStatus
_CONTENT_TYPES: dict[type[msgspec.Struct], str] = {
    **dict.fromkeys((WorkerStatus, EdgeStatus, *_ASKING), "application/json"),
    **dict.fromkeys((Signed, Statement, BlobRequest, BlobPiece), "application/msgpack"),
}

_PARAMETERS = {
    "version": "Target version that the edge asks for: 1 to 64 letters, digits, dots, dashes, underscores.",
    "edge": "MQTT user name of the edge node.",
    "session": "Number of a session of the edge, in decimal.",
    "worker": "Id of the cloud worker that holds the session.",
    "family": "Target family that the edge follows.",
    "user": "MQTT user name of who asks; anybody on a broker without users.",
}


class _Channel(NamedTuple):
    """A topic, with its parameters in braces, and what the edge does with it.

    Retained messages go by QoS 1; for others the plan chooses.
    """

    name: str
    address: str
    action: Literal["send", "receive"]
    messages: tuple[type[msgspec.Struct], ...]
    description: str
    retained: bool = False


CHANNELS = (
    _Channel(
        "open",
        "f1/o/{version}/{edge}",
        "send",
        (Open,),
        "Opens and re-opens sessions. The workers of a version share $share/{group}/f1/o/{version}/+; the group "
        "is w, or a secret of theirs.",
    ),
    _Channel(
        "draft",
        "f1/d/{worker}/{edge}",
        "send",
        (Draft, Poll, Close),
        "To the one worker that holds the session; it subscribes to f1/d/{worker}/+.",
    ),
    _Channel("verdict", "f1/v/{edge}", "receive", (Verdict, Error), "Answers of all workers to an edge."),
    _Channel(
        "delivery",
        "f1/r/{edge}/{session}",
        "receive",
        (Delivery,),
        "An answer that was written while the edge was away. It expires; the edge clears it when it has fetched it.",
        retained=True,
    ),
    _Channel(
        "workerStatus",
        "f1/w/{worker}",
        "receive",
        (WorkerStatus,),
        "Status of a worker, while it holds a session of this edge. Its will says gone.",
        retained=True,
    ),
    _Channel(
        "targetText",
        "f1/t/{worker}",
        "receive",
        (TargetText,),
        "How texts of a worker's target are written, for edges whose tokenizer has another fingerprint: JSON behind a "
        "flag byte, compressed as session messages are.",
        retained=True,
    ),
    _Channel(
        "blobRequest",
        "f1/g/{worker}/{edge}",
        "send",
        (BlobRequest,),
        "Asks a worker for some bytes of a blob, such as the tokenizer that its status names: a msgpack array behind "
        "the flag byte.",
    ),
    _Channel(
        "blob", "f1/b/{edge}", "receive", (BlobPiece,), "Bytes of a blob, in order: as the request, by QoS 1."
    ),
    _Channel(
        "longRequest",
        "f1/g/{edge}/{worker}",
        "receive",
        (BlobRequest,),
        "A worker beside a server of models asks for some bytes of a request that is too long for a message.",
    ),
    _Channel(
        "longRequestPiece", "f1/b/{worker}/{edge}", "send", (BlobPiece,), "Bytes of such a request, by QoS 1."
    ),
    _Channel(
        "edgeStatus",
        "f1/e/{edge}",
        "send",
        (EdgeStatus,),
        "Status of an edge node, for operators. Its will says gone.",
        retained=True,
    ),
    _Channel(
        "statement",
        "f1/i",
        "receive",
        (Statement,),
        "What the deployment says of now, where there are keys: a msgpack array, and behind it 64 bytes of an "
        "Ed25519 signature by the deployment's key.",
        retained=True,
    ),
    _Channel(
        "keySet",
        "f1/k/{family}",
        "receive",
        (Signed,),
        "Who may sign the catalogue of a family: the body is a KeySet, signed by the family's root key.",
        retained=True,
    ),
    _Channel(
        "catalogue",
        "f1/h/{family}",
        "receive",
        (Signed,),
        "The versions of a family: the body is a Catalogue, signed by keys of the key set.",
        retained=True,
    ),
    _Channel(
        "ask",
        "f1/ask/{edge}/{user}",
        "receive",
        (Ask,),
        "Texts that a user asks the edge for, where it answers asks (docs/asking.md); a payload that is no JSON object "
        "is a prompt. By MQTT 5 with Response Topic and Correlation Data.",
    ),
    _Channel(
        "answer",
        "f1/answer/{user}/{edge}",
        "send",
        (Answer, AnswerPiece, AskError),
        "Answers to a user, on this topic or below it. One that is to be kept is retained, and expires.",
    ),
    _Channel(
        "asked",
        "f1/a/{edge}",
        "send",
        (AskedStatus,),
        "Figures of an edge for those who ask it. Its will says gone.",
        retained=True,
    ),
)


MESSAGES = tuple(kind for channel in CHANNELS for kind in channel.messages)
"""Payloads of their own, a statement with its signature behind it."""
BODIES = (KeySet, Catalogue)
"""Bodies that `Signed` holds."""
_INNER = (
    *(CatalogueVersion, VersionStatus, CatalogueStatus, VersionFigures, Identity, Sampling, PartialSampling),
    *(Prefix, AddedToken, AskErrorBody, AskUsage, ToolCall, FunctionCall),
)
"""Records that payloads and bodies hold."""


def document() -> Json:
    """Build the document from `CHANNELS` and the message types."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "FlexSpec MQ, edge node",
            "version": f"{PROTOCOL_VERSION}.0.0",
            "description": (
                "Session messages and status documents between edge nodes and cloud workers, over MQTT 5. The"
                " document speaks for an edge node: what it sends, a worker receives. Payloads of session"
                " messages are one flag byte (protocol version in the high four bits, compression in the low"
                " four) and a msgpack array, in which token ids travel as a bin of LEB128 varints; schemas"
                " show that array as JSON. Signed messages of a family are msgpack arrays alone, the statement of a"
                " deployment is one with a signature behind it. Where both sides have keys, session messages travel"
                " in an envelope (docs/protocol.md)."
            ),
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": PAYLOAD_TYPE,
        "channels": {channel.name: _channel(channel) for channel in CHANNELS},
        "operations": {f"{channel.action}-{channel.name}": _operation(channel) for channel in CHANNELS},
        "components": {
            "messages": {kind.__name__: _message(kind) for kind in MESSAGES},
            "schemas": _draft_07(described((*MESSAGES, *BODIES, *_INNER))),
        },
    }


def _channel(channel: _Channel) -> Json:
    names = [kind.__name__ for kind in channel.messages]
    return {
        "address": channel.address,
        "description": channel.description,
        "parameters": {
            name: {"description": about}
            for name, about in _PARAMETERS.items()
            if f"{{{name}}}" in channel.address
        },
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }


def _operation(channel: _Channel) -> Json:
    binding: Json = {"retain": channel.retained, "bindingVersion": "0.2.0"}
    if channel.retained:
        binding["qos"] = 1
    summary = "QoS 1, retained." if channel.retained else "QoS 0, 1 or 2, as the plan says."
    if channel.name in ("ask", "answer"):
        summary = "QoS 1."
    return {
        "action": channel.action,
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "summary": summary,
        "messages": [
            {"$ref": f"#/channels/{channel.name}/messages/{kind.__name__}"} for kind in channel.messages
        ],
        "bindings": {"mqtt": binding},
    }


def _message(kind: type[msgspec.Struct]) -> Json:
    return {
        "name": kind.__name__,
        "contentType": _CONTENT_TYPES.get(kind, PAYLOAD_TYPE),
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
    }


def _draft_07(schema: Any) -> Any:
    """Rewrite for AsyncAPI, whose schemas extend JSON Schema draft 07.

    There tuples are called ``items``, with ``additionalItems`` behind them, and whatever stands beside a ``$ref`` is
    ignored.
    """
    if isinstance(schema, list):
        return [_draft_07(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    names = {"prefixItems": "items", "items": "additionalItems"} if "prefixItems" in schema else {}
    rewritten = {names.get(key, key): _draft_07(value) for key, value in schema.items()}
    if "$ref" in rewritten and len(rewritten) > 1:
        rewritten["allOf"] = [{"$ref": rewritten.pop("$ref")}]
    return rewritten
