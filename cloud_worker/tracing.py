"""Spans of the sessions that a worker holds, each in the trace of the device's request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cloud_worker.engine.interface import StepResult
from flexspec_mq.protocol.effects import Free, ReleaseToCache, Reply, SessionKey, WorkerEffect
from flexspec_mq.telemetry import Telemetry, TextSpan, sampling_attributes
from flexspec_mq.transport.properties import read_properties
from schemas.messages import Close, Error, ErrorCode, Fin, Open

if TYPE_CHECKING:
    from flexspec_mq.protocol.worker.session import WorkerSession
    from flexspec_mq.protocol.worker.types import WorkItem

_FINISHED = {Fin.EOS: "stop", Fin.LENGTH: "length"}


class SessionSpans:
    """Spans of the sessions that are here, by session.

    Args:
        telemetry: where they go.
        worker: name of the worker.
    """

    def __init__(self, telemetry: Telemetry, worker: str) -> None:
        self._telemetry = telemetry
        self._worker = worker
        self._spans: dict[SessionKey, TextSpan] = {}
        self._sessions: dict[SessionKey, WorkerSession] = {}
        self._took: dict[SessionKey, Counter[str]] = {}

    def opened(self, message: Open, session: WorkerSession | None, properties: bytes) -> None:
        """Note that a device has opened a session, or opens it again.

        Args:
            message: as it came.
            session: session that it has opened; None where it was refused.
            properties: MQTT 5 properties of the message.
        """
        if session is None:
            return
        if (span := self._spans.get(session.key)) is not None:
            if message.attempt == session.attempt > self._took[session.key]["attempt"]:
                self._took[session.key]["attempt"] = message.attempt
                span.event("flexspec.reopened", attempt=message.attempt)
            return
        identity, edge = session.identity, session.key[0]
        self._took[session.key] = Counter(attempt=message.attempt)
        self._sessions[session.key] = session
        self._spans[session.key] = TextSpan(
            self._telemetry,
            "text_completion",
            session.version,
            read_properties(properties).user,
            {
                "gen_ai.request.max_tokens": identity.limit,
                **sampling_attributes(identity.sampling),
                "flexspec.worker": self._worker,
                "flexspec.edge": edge,
                "flexspec.session": session.key[1],
                "flexspec.attempt": message.attempt,
                "flexspec.resumed_tokens": len(session.chain),
                "gen_ai.usage.input_tokens": len(session.prompt),
            },
        )

    def decided(self, item: WorkItem, tokens: tuple[int, ...], result: StepResult, began: float) -> None:
        """Note what a forward, which began at this time, decided for a session."""
        if (span := self._spans.get(item.key)) is not None:
            span.committed(len(tokens))
            took = self._took[item.key]
            took["rounds"] += 1
            took["tokens"] += len(tokens)
            took["drafted"] += len(item.draft)
            took["queue_ms"] += max(0, int(1000 * (began - item.waiting_since)))
            took["forward_ms"] += result.compute_ms

    def note(self, effects: Sequence[WorkerEffect], closes: Close | None = None) -> None:
        """End the spans of sessions that have their last token, or are gone; `closes` if their edge says so."""
        gone = "expired" if closes is None else closes.reason.name.lower()
        errors: dict[SessionKey, str] = {}
        for effect in effects:
            if isinstance(effect, Reply) and isinstance(effect.message, Error):
                errors[effect.edge, effect.message.session] = _error(effect.message)
        for effect in effects:
            if isinstance(effect, Free | ReleaseToCache):
                self._end(effect.key, errors.get(effect.key, gone))

    def close(self) -> None:
        """End all spans, as the worker ends without its sessions having done so."""
        for key in tuple(self._spans):
            self._end(key, "stopped")

    def _end(self, key: SessionKey, error: str) -> None:
        if (span := self._spans.pop(key, None)) is None:
            return
        took, finish = self._took.pop(key), _FINISHED.get(self._sessions.pop(key).ended, "")
        span.note(
            {
                "gen_ai.response.finish_reasons": [finish] if finish else None,
                "gen_ai.usage.output_tokens": took["tokens"],
                "flexspec.rounds": took["rounds"],
                "flexspec.draft.received": took["drafted"],
                "flexspec.queue_ms": took["queue_ms"],
                "flexspec.forward_ms": took["forward_ms"],
            }
        )
        span.end("" if finish else error)


def _error(message: Error) -> str:
    """Why a session ends before its text does."""
    return "released" if message.code is ErrorCode.UNKNOWN else message.code.name.lower()
