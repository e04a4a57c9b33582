"""One short text, end to end: through the broker as the edge node would, or through the one that runs already."""

from __future__ import annotations

import asyncio
import http.client
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from edge_node.completion.events import Clock
from edge_node.doctor.api import post
from edge_node.generation import GenerationRequest
from edge_node.node import EdgeNode
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.controller.policies.fixed import FixedPolicy
from flexspec_mq.doctor.threads import on_thread
from flexspec_mq.errors import FlexSpecError, LinkError, PublishRefused, RemoteProtocolError, WorkerError
from flexspec_mq.models.text import Turn, encode_turns
from flexspec_mq.protocol.effects import Finish
from flexspec_mq.sampling.params import SamplingParams
from flexspec_mq.transport.base import NOT_AUTHORIZED, Inbound, no_birth
from flexspec_mq.transport.mqtt import mqtt_link
from schemas.messages import Error, Verdict
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from edge_node.doctor.api import Answering
    from edge_node.drafting.load import DraftModel
    from edge_node.generation import Generation
    from edge_node.settings import EdgeConfig
    from flexspec_mq.daemon.retry import Waiting
    from flexspec_mq.doctor.findings import Findings
    from flexspec_mq.doctor.watching import Watch
    from flexspec_mq.transport.base import Link, LinkCounters, LinkEvent, LinkSettings

_PROMPT = "Say hello."
_TOKENS = 4
_SECONDS = 20.0


class _OnlyOurs:
    """A link that shows of the answers to this edge only those to one session.

    Answers to others of the same name would look like strays to a node that does not know them, and it would close
    their sessions at the worker.

    Attributes:
        session: its number; None before it has one.
        worker: that answered last and said who it is; empty before any.
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._codec = Codec()
        self.session: int | None = None
        self.worker = ""

    @property
    def is_up(self) -> bool:
        return self._link.is_up

    @property
    def counters(self) -> LinkCounters:
        return self._link.counters

    async def wait_up(self, timeout: float | None = None) -> None:
        await self._link.wait_up(timeout)

    async def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False, expiry: float | None = None
    ) -> None:
        await self._link.publish(topic, payload, qos=qos, retain=retain, expiry=expiry)

    async def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        await self._link.subscribe(topic_filter, qos)

    async def unsubscribe(self, topic_filter: str) -> None:
        await self._link.unsubscribe(topic_filter)

    async def events(self) -> AsyncIterator[LinkEvent]:
        async for event in self._link.events():
            if not isinstance(event, Inbound) or self._ours(event):
                yield event

    def reconnect(self, reason: str) -> None:
        self._link.reconnect(reason)

    def _ours(self, inbound: Inbound) -> bool:
        if topics.worker_of_status(inbound.topic) is not None:
            return True
        try:
            message = self._codec.decode(inbound.payload)
        except RemoteProtocolError:
            return False
        if not isinstance(message, Verdict | Error) or message.session != self.session:
            return False
        self.worker = message.worker or self.worker
        return True


async def check_text(
    findings: Findings, config: EdgeConfig, base: LinkSettings, draft: DraftModel, watch: Watch
) -> None:
    """Write a few tokens through the broker.

    Args:
        findings: to add to.
        config: of the edge node.
        base: settings of a link that is not the daemon's own.
        draft: that is loaded.
        watch: sees the statuses of workers.
    """
    node = EdgeNode(config.node, draft.drafter, draft.loaded.fingerprint, draft.loaded.eos, reuse=False)
    gate: list[_OnlyOurs] = []

    @asynccontextmanager
    async def connect(settings: LinkSettings) -> AsyncIterator[Link]:
        bare = replace(settings, will=None, birth=no_birth, session_expiry=0)
        async with mqtt_link(bare, on_wait=_quietly) as link:
            gate.append(_OnlyOurs(link))
            yield gate[0]

    began = time.monotonic()
    try:
        request = GenerationRequest(
            prompt=encode_turns(
                draft.loaded.tokenizer, [Turn("user", _PROMPT)], max_context=draft.loaded.max_context
            ),
            sampling=SamplingParams(0.0, 0, 1.0, 0),
            limit=_TOKENS,
            policy=FixedPolicy(config.plan.plan()),
            ignore_eos=True,
            timeout=_SECONDS,
        )
        async with node.running(connect, base):
            generation = node.generate(request)
            gate[0].session = generation.session
            try:
                await _written(findings, generation, gate[0], watch)
            finally:
                node.cancel(generation)
    except FlexSpecError as error:
        _explain(findings, config, error, watch, began)


async def _written(findings: Findings, generation: Generation, gate: _OnlyOurs, watch: Watch) -> None:
    """Read the text and report its figures.

    Raises:
        FlexSpecError: it failed.
    """
    clock = Clock()
    async for event in generation:
        if not isinstance(event, Finish):
            clock.committed()
            continue
        if event.error is not None:
            raise event.error
        break
    stats = clock.stats(generation)
    if stats.first_token is None or stats.tokens < _TOKENS:
        raise WorkerError(
            f"only {stats.tokens} of {_TOKENS} tokens came within {_SECONDS:g} s",
            hint="the worker is very slow, or its answers get lost: look into its log",
        )
    status = watch.newest(topics.worker_status_topic(gate.worker))
    exactness = (
        status.status.exactness
        if status and isinstance(status.status, WorkerStatus)
        else "of unknown exactness"
    )
    rtt = "" if stats.rtt_ms is None else f", round trip {stats.rtt_ms:.0f} ms"
    findings.ok(
        "text",
        f"{stats.tokens} tokens by worker {gate.worker}, first after {1000 * stats.first_token:.0f} ms{rtt}, "
        f"verification {exactness}",
    )


def _explain(
    findings: Findings, config: EdgeConfig, error: FlexSpecError, watch: Watch, began: float
) -> None:
    edge = config.node.edge
    if isinstance(error, PublishRefused) and error.reason_code == NOT_AUTHORIZED:
        findings.fail(
            "text", "ACL refusal", error.message, f"{error.hint} {config.link.username or ''}".strip()
        )
        return
    taken = _took_more(watch, began)
    if taken and isinstance(error, WorkerError):
        topic = topics.verdict_topic(edge)
        findings.fail(
            "text",
            "ACL refusal",
            f"worker {taken} took the session, and none of its answers reached us ({error.message})",
            f"let user {config.link.username or 'anonymous'!r} read {topic}, and the worker's user write it; "
            "then look for a firewall that lets only one direction pass",
        )
        return
    fault = "link lost" if isinstance(error, LinkError) else "no text"
    findings.fail("text", fault, f"no text came: {error.message}", error.hint or "look into the worker's log")


def _took_more(watch: Watch, began: float) -> str:
    """A worker that held more sessions in its newest status than in its last one before; empty if there is none."""
    for every in watch.seen.values():
        before = [one.status.load for one in every if one.at < began and isinstance(one.status, WorkerStatus)]
        after = [one.status for one in every if one.at >= began and isinstance(one.status, WorkerStatus)]
        if before and any(status.load > before[-1] for status in after):
            return after[-1].worker
    return ""


async def check_text_over_api(findings: Findings, answering: Answering, config: EdgeConfig) -> None:
    """Ask the edge node that runs for a few tokens."""
    settings = config.api.settings(config.node.version)
    body = {
        "model": settings.version,
        "messages": [{"role": "user", "content": _PROMPT}],
        "max_tokens": _TOKENS,
        "temperature": 0,
    }
    began = time.monotonic()
    try:
        async with asyncio.timeout(_SECONDS):
            status, said = await on_thread(
                lambda: post(
                    answering.host, answering.port, "/v1/chat/completions", body, settings.api_key, _SECONDS
                )
            )
    except (OSError, http.client.HTTPException, ValueError) as error:
        detail = f"the running edge node at {answering.url} did not answer within {_SECONDS:g} s: {error}"
        findings.fail("text", "no text", detail, "look into its log, and start it again")
        return
    took = time.monotonic() - began
    if status == 200:
        usage = said.get("usage", {})
        findings.ok(
            "text",
            f"{usage.get('completion_tokens', '?')} tokens in {1000 * took:.0f} ms from the running edge node at "
            f"{answering.url}",
        )
        return
    why = said.get("error", {})
    hint = "give the doctor the API key that the daemon has: api_key_file, or FLEXSPEC_EDGE_API_KEY"
    findings.fail(
        "text",
        "no text",
        f"the running edge node at {answering.url} refused a text ({status}): {why.get('message', 'no reason')}",
        hint if status == 401 else str(why.get("hint") or "look into its log"),
    )


def _quietly(_waiting: Waiting) -> None:
    """The last error is told, not each."""
