"""Messages that a worker takes from an edge at all, whatever state a session is in."""

from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.protocol.worker.types import VersionFacts
from schemas.messages import Close, Draft, ErrorCode, Open, Poll


class IllegalMessage(RemoteProtocolError):
    """A message that is well formed and means nothing legal. Becomes a typed error to its sender."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def check(message: Draft | Poll | Close, vocab_size: int) -> None:
    """Refuse what no state makes legal.

    Args:
        message: anything but an open.
        vocab_size: token ids are below this.

    Raises:
        IllegalMessage: with the code that the edge is told.
    """
    _check_attempt(message.attempt)
    if not isinstance(message, Close):
        _check_tokens(message.tokens, vocab_size)


def check_open(message: Open, facts: VersionFacts, room: int | None) -> None:
    """Refuse an open, with its whole prompt, that no state makes legal.

    Args:
        message: the open.
        facts: facts of the version that it asks for.
        room: tokens that fit into the worker's memory; None is no bound.

    Raises:
        IllegalMessage: with the code that the edge is told.
    """
    _check_attempt(message.attempt)
    _check_tokens(message.draft, facts.vocab_size)
    identity = message.identity
    sampling, rule = identity.sampling, identity.sampling.rule
    if identity.noise != rule:
        older = "device" if identity.noise < rule else "worker"
        raise IllegalMessage(
            ErrorCode.PROTOCOL,
            f"the device draws noise of version {identity.noise}, this worker {rule}: update the {older}",
        )
    if sampling.penalized and not facts.penalties:
        raise IllegalMessage(
            ErrorCode.SAMPLING,
            "penalties and logit_bias need whole rows of logits, and this worker's server tells likeliest tokens only",
        )
    _check_tokens(tuple(token for token, _ in sampling.logit_bias), facts.vocab_size)
    _check_tokenizer(message, facts)
    if identity.limit < 1:
        raise IllegalMessage(ErrorCode.MALFORMED, "a session needs a limit of at least 1")
    if len(message.committed) > identity.limit:
        raise IllegalMessage(ErrorCode.MALFORMED, "more tokens are committed than the limit allows")
    if identity.grammar is not None and identity.ignore_eos:
        raise IllegalMessage(ErrorCode.MALFORMED, "a text with a grammar ends where that does")
    wanted = f"prompt of {len(message.prompt)} and limit of {identity.limit} tokens exceed"
    if len(message.prompt) + identity.limit > facts.max_context:
        raise IllegalMessage(ErrorCode.CONTEXT, f"{wanted} the context of {facts.max_context}")
    if room is not None and len(message.prompt) + identity.limit > room:
        raise IllegalMessage(ErrorCode.CONTEXT, f"{wanted} this worker's KV cache of {room}")
    _check_tokens(message.prompt, facts.vocab_size)
    _check_tokens(message.committed, facts.vocab_size)
    if not identity.ignore_eos and not set(identity.eos).isdisjoint(message.committed[:-1]):
        raise IllegalMessage(ErrorCode.MALFORMED, "the committed text goes on after its end")


def _check_tokenizer(message: Open, facts: VersionFacts) -> None:
    """Refuse a session whose token ids mean other tokens than the target's, or whose texts end elsewhere."""
    identity, ours = message.identity, facts.tokenizer
    if identity.fingerprint != facts.fingerprint:
        raise IllegalMessage(ErrorCode.FINGERPRINT, "the tokenizers differ by their contents")
    if ours is not None and not identity.ignore_eos and set(identity.eos) != set(ours.eos):
        ends = [", ".join(map(str, sorted(ids))) or "nothing" for ids in (ours.eos, identity.eos)]
        raise IllegalMessage(
            ErrorCode.FINGERPRINT, f"the target ends texts with token {ends[0]}, the device with {ends[1]}"
        )


def _check_attempt(attempt: int) -> None:
    if attempt < 1:
        raise IllegalMessage(ErrorCode.MALFORMED, "attempts count from 1")


def _check_tokens(tokens: tuple[int, ...], vocab_size: int) -> None:
    if tokens and max(tokens) >= vocab_size:
        raise IllegalMessage(ErrorCode.MALFORMED, f"token {max(tokens)} is not in the vocabulary")
