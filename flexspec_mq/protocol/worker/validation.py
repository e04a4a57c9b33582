"""What a worker takes from an edge at all, whatever state a session is in."""

from __future__ import annotations

from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.protocol.worker.types import WorkerConfig
from schemas.messages import PROTOCOL_VERSION, Close, Draft, ErrorCode, Open, Poll


class IllegalMessage(RemoteProtocolError):
    """A message that is well formed and means nothing legal. Becomes a typed error to its sender."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def check(message: Open | Draft | Poll | Close, config: WorkerConfig) -> None:
    """Refuse what no state makes legal.

    Raises:
        IllegalMessage: with the code that the edge is told.
    """
    if message.attempt < 1:
        raise IllegalMessage(ErrorCode.MALFORMED, "attempts count from 1")
    if isinstance(message, Close):
        return
    tokens = message.draft if isinstance(message, Open) else message.tokens
    _check_tokens(tokens, config)
    if not isinstance(message, Open):
        return
    _check_open(message, config)


def _check_open(message: Open, config: WorkerConfig) -> None:
    identity = message.identity
    if identity.protocol != PROTOCOL_VERSION:
        raise IllegalMessage(
            ErrorCode.PROTOCOL, f"protocol {identity.protocol}; this worker speaks {PROTOCOL_VERSION}"
        )
    if identity.fingerprint != config.fingerprint:
        raise IllegalMessage(ErrorCode.FINGERPRINT, "the vocabularies differ by their contents")
    if identity.limit < 1:
        raise IllegalMessage(ErrorCode.MALFORMED, "a session needs a limit of at least 1")
    if len(message.committed) > identity.limit:
        raise IllegalMessage(ErrorCode.MALFORMED, "more tokens are committed than the limit allows")
    wanted = f"prompt of {len(message.prompt)} and limit of {identity.limit} tokens exceed"
    if len(message.prompt) + identity.limit > config.max_context:
        raise IllegalMessage(ErrorCode.CONTEXT, f"{wanted} the context of {config.max_context}")
    if config.room is not None and len(message.prompt) + identity.limit > config.room:
        raise IllegalMessage(
            ErrorCode.CONTEXT, f"{wanted} this worker's memory for the keys and values of {config.room}"
        )
    _check_tokens(message.prompt, config)
    _check_tokens(message.committed, config)
    if not identity.ignore_eos and any(token in identity.eos for token in message.committed[:-1]):
        raise IllegalMessage(ErrorCode.MALFORMED, "the committed text goes on after its end")


def _check_tokens(tokens: tuple[int, ...], config: WorkerConfig) -> None:
    if tokens and max(tokens) >= config.vocab_size:
        raise IllegalMessage(ErrorCode.MALFORMED, f"token {max(tokens)} is not in the vocabulary")
