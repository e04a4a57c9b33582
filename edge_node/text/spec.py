"""A request for a text, whoever asks: HTTP, MQTT, a command, or the journal after a restart."""

from __future__ import annotations

from hashlib import blake2b
from typing import TypeVar

import msgspec

from flexspec_mq.errors import FlexSpecError, UsageError
from flexspec_mq.grammar.grammar import Grammar
from flexspec_mq.grammar.tools import ToolUse
from flexspec_mq.models.text import Turn
from flexspec_mq.sampling.params import verified
from flexspec_mq.telemetry import Carrier
from schemas.messages import LEFT_OPEN, PartialSampling, Sampling
from schemas.openai import LOCAL_ONLY, Offline

T = TypeVar("T")
WHOLE_CONTEXT = -1
"""Limit of a text that may be as long as the context leaves."""
SEED_BITS = 53
"""Bits of seeds that we draw: programs read numbers from JSON, some of them as floats."""
FORMAT = 1
"""Version of packed requests, their first byte."""
_BEGINNING = 256
"""Characters or tokens of a prompt without turns that name its conversation."""

Prompt = str | tuple[int | str | Turn, ...]
"""Text, token ids, the turns of a conversation, or texts whose vectors are asked for."""


class Adjustments(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Changes of logits, which nobody recommends: see `Sampling`."""

    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()


class TextSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A text to write. None leaves a value to the target's makers, or as stated.

    Attributes:
        prompt: beginning of the text; or texts whose vectors are asked for in its place.
        dimensions: numbers of a vector; None leaves them to the server.
        sampling: how its tokens are chosen.
        adjustments: penalties and bias of logits.
        seed: 64 bits; None draws one.
        limit: tokens at most, or `WHOLE_CONTEXT`; None is the node's default.
        stops: non-empty strings that end the text and are not shown.
        ignore_eos: go on to the limit.
        timeout: seconds for the whole text, waiting included; None is no bound.
        version: target version, or with a family what stands for one; None is the node's.
        user: name that the client gives its user: answers to others are not drafted from.
        conversation: names it, which decides its side of a canary; empty takes its beginning.
        wait: patience: seconds without a token after which the text fails while the broker is away, no worker serves
            the version or all have too much to do; 0 and None are the node's.
        offline: offline mode, for while nobody can be reached; None is the node's.
        prediction: a text that much of this one will probably be. It speeds the text up and never changes it.
        grammar: the texts that are allowed; None allows all.
        tools: tools that it may call, in place of such a text.
        truncate: leave out the oldest turns of a conversation that is too long for the context.
        trace_context: context of whoever asks, to whose trace the text belongs.
    """

    prompt: Prompt
    dimensions: int | None = None
    sampling: PartialSampling = LEFT_OPEN
    adjustments: Adjustments = Adjustments()
    seed: int | None = None
    limit: int | None = None
    stops: tuple[str, ...] = ()
    ignore_eos: bool = False
    timeout: float | None = None
    version: str | None = None
    user: bytes = b""
    conversation: bytes = b""
    wait: float | None = None
    offline: Offline | None = None
    prediction: str | None = None
    grammar: Grammar | None = None
    tools: ToolUse | None = None
    truncate: bool = False
    trace_context: Carrier = ()

    def __post_init__(self) -> None:
        """Refuse what no text can be written with.

        Raises:
            UsageError: naming the value.
        """
        verified(self.sampled(0, Sampling()))
        if self.limit is not None and self.limit < 1 and self.limit != WHOLE_CONTEXT:
            raise UsageError(f"a limit of {self.limit} tokens leaves nothing to write", hint="use at least 1")
        if self.timeout is not None and not self.timeout > 0:  # nan is not either
            raise UsageError(f"a timeout of {self.timeout} s is over before it begins")

    @property
    def inputs(self) -> tuple[str, ...]:
        """Texts whose vectors are asked for; none where a text is."""
        return (
            ()
            if isinstance(self.prompt, str)
            else tuple(each for each in self.prompt if isinstance(each, str))
        )

    @property
    def leaves_to_target(self) -> bool:
        """Whether it matters what the makers of the target recommend."""
        return self.sampling.temperature != 0 and None in msgspec.structs.astuple(self.sampling)

    def sampled(self, drawn: int, recommended: Sampling) -> Sampling:
        """All sampling parameters, with the seed that is asked for or else with `drawn`."""
        seed = drawn if self.seed is None else self.seed
        changes = msgspec.structs.asdict(self.adjustments)
        return msgspec.structs.replace(self.sampling.over(recommended), seed=seed, **changes)

    @property
    def named(self) -> bytes:
        """The name of its conversation: its own, or what does not change as that goes on: its user's first message."""
        if self.conversation:
            return self.conversation
        if isinstance(self.prompt, str):
            first = self.prompt[:_BEGINNING]
        else:
            asked = [turn.content for turn in self.prompt if isinstance(turn, Turn) and turn.role == "user"]
            first = asked[0] if asked else repr(self.prompt[:_BEGINNING])
        return blake2b(first.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def is_local(offline: object, model: object) -> bool:
    """Whether a request must not leave the device, by these fields of any API's."""
    return LOCAL_ONLY in (offline, model) or model == f"{LOCAL_ONLY}:latest"


class TextRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A request as the journal has it: its text, and in types of an API the form of its answer as well.

    Attributes:
        spec: the text, or the first of several.
    """

    spec: TextSpec

    def pack(self) -> bytes:
        """The request as the journal has it; the trace of whoever asked ends before."""
        persisted = msgspec.structs.replace(self, spec=msgspec.structs.replace(self.spec, trace_context=()))
        return bytes([FORMAT]) + msgspec.msgpack.encode(persisted)


class UnknownRequest(FlexSpecError):
    """A request in the journal that this program cannot read."""


def unpack(packed: bytes, kind: type[T]) -> T:
    """Read a request.

    Args:
        packed: see `TextRequest.pack`.
        kind: `TextRequest`, or the types of APIs.

    Raises:
        UnknownRequest: a newer program wrote it, or one of other APIs.
    """
    if packed[:1] != bytes([FORMAT]):
        raise UnknownRequest(
            "another version of this program wrote this request",
            hint="start that one again, or drop the request",
        )
    try:
        return msgspec.msgpack.decode(memoryview(packed)[1:], type=kind)
    except (msgspec.DecodeError, UsageError) as error:
        raise UnknownRequest(f"this request cannot be read: {error}") from error


class IdempotencyKey(msgspec.Struct, frozen=True):
    """The mark by which two requests are the same.

    Attributes:
        key: the client's, or one that the node drew.
        digest: digest of endpoint and body, in canonical form.
        path: endpoint that was asked.
        client: who asks, as far as can be told.
        choice: which of the request's texts, from 0.
    """

    key: str
    digest: bytes
    path: str = ""
    client: bytes = b""
    choice: int = 0

    def marks(self, other: IdempotencyKey) -> bool:
        """Whether both are of the same request."""
        return (self.key, self.digest) == (other.key, other.digest)

    @property
    def seed(self) -> int:
        """The same for the same key and body, also after the node was started again."""
        digest = blake2b(self.digest, key=blake2b(self.key.encode(), digest_size=32).digest(), digest_size=8)
        return int.from_bytes(digest.digest(), "big") >> (64 - SEED_BITS)
