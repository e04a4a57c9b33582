"""From a message to an ask: whose it is, where its answer goes, and what is wanted."""

from contextlib import suppress
from hashlib import blake2b
from typing import Any, Self

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from edge_node.api.errors import ApiError, api_error, bad
from edge_node.api.http.bodies import canonical, parse_object, read
from edge_node.api.openai.chat import OpenAIRequest
from edge_node.api.openai.requests import chat_request
from edge_node.outbox.entries import Entry
from edge_node.outbox.outbox import ASKED
from edge_node.text.spec import IdempotencyKey, UnknownRequest, is_local
from flexspec_mq import topics
from flexspec_mq.errors import FlexSpecError
from flexspec_mq.telemetry import context_of
from flexspec_mq.transport.base import Inbound, Outbound
from flexspec_mq.transport.properties import read_properties
from schemas.asking import Ask, AskError, AskErrorBody, AskId

_OWN = frozenset(field.name for field in msgspec.structs.fields(Ask))


class ReplyAddress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where and how an ask is answered.

    Attributes:
        keep: seconds for which the broker keeps the whole answer.
        fields: fields of the ask that hold the prompt, and say the form of the answer, for errors of these.
    """

    topic: str
    correlation: bytes | None = None
    id: AskId | None = None
    keep: float = 0.0
    fields: tuple[str, str | None] = "prompt", None

    @property
    def named(self) -> dict[str, Any]:
        """The id, as answers have it."""
        return {"id": UNSET if self.id is None else self.id}

    def message(self, body: msgspec.Struct) -> Outbound:
        """A message to the client; the last one of an answer that is to be kept is retained."""
        keep = self.keep if getattr(body, "done", False) else 0.0
        payload = msgspec.json.encode(body)
        return Outbound(self.topic, payload, 1, keep > 0, keep or None, self.correlation)

    def error(self, error: FlexSpecError) -> Outbound:
        """The answer to an ask that failed."""
        said = api_error(error, *self.fields)
        body = AskErrorBody(
            code=said.code or "invalid_value",
            message=said.message,
            hint=said.hint,
            param=said.param,
            retry_after=said.retry_after,
        )
        return self.message(AskError(**self.named, error=body))


class AskRequest(OpenAIRequest, frozen=True, kw_only=True, omit_defaults=True, tag="ask"):
    """An ask that can be answered.

    Attributes:
        user: who asks.
        reply: where it is answered.
        keep: seconds for which its answer is to be kept at the broker.
    """

    user: str
    reply: ReplyAddress
    keep: float = 0.0

    @property
    def patience(self) -> float:
        """Seconds that it waits for its turn."""
        return self.spec.wait or 0.0

    def again(self, seconds: float) -> Self:
        """The same from the outbox, with a patience of at least so many seconds."""
        return replace(self, spec=replace(self.spec, wait=max(self.patience, seconds)))


class AskReader:
    """Reads one ask.

    Args:
        user: who asks, as the topic says.
        edge: name of the node.

    Attributes:
        reply: where it is answered, as far as it was read; also where it cannot be.
        key: mark of its copies; None for one without id and Correlation Data.
    """

    def __init__(self, user: str, edge: str) -> None:
        self._user = user
        self._edge = edge
        self.reply = ReplyAddress(topic=topics.answer_topic(user, edge))
        self.key: IdempotencyKey | None = None

    def read(self, inbound: Inbound, *, most: int, lenient: bool = False) -> AskRequest | None:
        """Read it; None if it only has the answer cleared that is kept where it would be answered.

        Args:
            inbound: message on a topic of the edge.
            most: bytes that an ask may have.
            lenient: ignore fields that are unknown or not supported.

        Raises:
            ApiError: naming the field.
        """
        topic, correlation, user = read_properties(inbound.properties)
        self.reply = replace(self.reply, correlation=correlation)
        if topic is not None:
            self._answer_on(topic)
        if len(inbound.payload) > most:
            raise ApiError(413, f"the ask has more than {most} bytes", code="body_too_long")
        if inbound.retain:
            what = "the ask was retained, and would be asked again whenever the node connects"
            raise bad(None, what, code="retained")
        body = _body(inbound.payload)
        with suppress(msgspec.ValidationError):
            self.reply = replace(self.reply, id=msgspec.convert(body.get("id"), AskId | None))
        own = read(Ask, {field: body.pop(field) for field in _OWN & body.keys()})
        named = "" if own.id is None else str(own.id)
        if topic is None:
            self._answer_on(own.response_topic or topics.answer_topic(self._user, self._edge, named))
        if own.clear:
            return None
        wanted = chat_request(_chat(own, body), lenient)
        if wanted.choices != 1:
            raise bad("n", "an ask is answered by one text", code="unsupported_parameter")
        if is_local(wanted.spec.offline, wanted.spec.version):
            what = "an ask by MQTT has been at the broker, so its text cannot be one that never leaves the device"
            raise bad(
                "offline",
                what,
                code="unsupported_parameter",
                hint="ask the node's HTTP API on the device itself",
            )
        spec = replace(wanted.spec, trace_context=context_of(dict(user)))
        if self._user != topics.ANYBODY:  # nobody's remembered answers are drafted from for another
            spec = replace(spec, user=b"\0".join((self._user.encode(), spec.user)))
        fields = "messages" if own.prompt is None else "prompt", "schema" if own.schema else wanted.shaped_by
        self.reply = replace(self.reply, fields=fields)
        if named := named or (correlation or b"").hex():
            digest = blake2b(canonical([body, own.prompt, own.schema])).digest()
            self.key = IdempotencyKey(f"{ASKED}\0{self._user}\0{named}", digest, ASKED)
        asked = {name: getattr(wanted, name) for name in OpenAIRequest.__struct_fields__} | {"spec": spec}
        return AskRequest(**asked, user=self._user, reply=self.reply, keep=own.keep or 0.0)

    def _answer_on(self, topic: str) -> None:
        if not topics.is_answer_topic(topic, self._user, self._edge):
            raise ApiError(
                403,
                f"{self._user} is not answered on {topic[:200]!r}",
                code="wrong_response_topic",
                param="response_topic",
                hint=f"name {topics.answer_topic(self._user, self._edge)}, or a topic below it",
            )
        self.reply = replace(self.reply, topic=topic)


class _OldAsk(msgspec.Struct):
    topic: str
    payload: str
    properties: bytes


def from_message(edge: str, entry: Entry) -> bytes:
    """An ask as the journal has it today, where version 0.2.0 kept its message.

    Args:
        edge: name of the node.
        entry: ask in the journal.

    Raises:
        UnknownRequest: it cannot be read.
    """
    try:
        kept = msgspec.json.decode(entry.body, type=_OldAsk)
        inbound = Inbound(kept.topic, kept.payload.encode(), 1, properties=kept.properties)
        reader = AskReader(topics.client_of_ask(kept.topic, edge) or "", edge)
        asked = reader.read(inbound, most=len(inbound.payload), lenient=True)
    except (ValueError, FlexSpecError) as error:
        raise UnknownRequest(f"this ask of version 0.2.0 cannot be read: {error}") from error
    if asked is None:
        raise UnknownRequest("this ask of version 0.2.0 asks for no text")
    return replace(asked, spec=replace(asked.spec, offline=entry.mode)).pack()


def _body(payload: bytes) -> dict[str, Any]:
    """The fields of an ask: of a JSON object, or of a prompt alone."""
    if payload.lstrip()[:1] == b"{":
        return parse_object(payload)
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        raise bad(None, f"the ask is neither JSON nor text in UTF-8: {error}", code="invalid_json") from error
    if not text.strip():
        raise bad("prompt", "the ask is empty")
    return {"prompt": text}


def _chat(own: Ask, body: dict[str, Any]) -> dict[str, Any]:
    """The same ask as the body of a chat completion."""
    if (own.prompt is None) == (body.get("messages") is None):
        raise bad("prompt", "an ask has either prompt or messages")
    chat = dict(body)
    if own.prompt is not None:
        chat["messages"] = [{"role": "user", "content": own.prompt}]
    if own.schema is not None:
        if body.get("response_format") is not None:
            raise bad("schema", "schema and response_format both say what the text keeps")
        named = {"name": "answer", "schema": own.schema, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": named}
    return chat
