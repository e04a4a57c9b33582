"""One short text, end to end: through the broker as the edge node would, or through the one that runs already."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from edge_node.api.client import post
from edge_node.completion.generator import CompletionGenerator
from edge_node.completion.options import CompletionOptions
from edge_node.node import EdgeNode
from flexspec_mq import topics
from flexspec_mq.codec import Codec
from flexspec_mq.doctor.link import quietly
from flexspec_mq.doctor.threads import on_thread
from flexspec_mq.errors import (
    FlexSpecError,
    LinkError,
    PublishRefused,
    RemoteProtocolError,
    TimeIsOver,
    WorkerError,
)
from flexspec_mq.keys.credential import KeyRole, read_credential
from flexspec_mq.keys.envelope import is_keyed, read_envelope, wanted_session
from flexspec_mq.keys.identity_file import read_identity
from flexspec_mq.keys.refusals import KeysRefused
from flexspec_mq.models.text import Turn
from flexspec_mq.transport.base import NOT_AUTHORIZED, Inbound, no_birth
from flexspec_mq.transport.forwarding import ForwardingLink
from flexspec_mq.transport.mqtt import mqtt_link
from schemas.messages import Error, Verdict
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from edge_node.completion.figures import Figures
    from edge_node.config import EdgeConfig
    from edge_node.doctor.api import Answering
    from flexspec_mq.doctor.findings import Findings
    from flexspec_mq.doctor.watching import Watch
    from flexspec_mq.drafting.load import DraftModel
    from flexspec_mq.transport.base import Link, LinkEvent, LinkSettings

_PROMPT = "Say hello."
_TOKENS = 4
_SECONDS = 20.0


class _OnlyOurs(ForwardingLink):
    """A link that shows of the answers to this edge only those to one session.

    Answers to others of the same name would look like strays to a node that does not know them, and it would close
    their sessions at the worker.

    Attributes:
        session: its number; None before it has one.
        worker: that answered last and said who it is; empty before any.
    """

    def __init__(self, link: Link, deployment: bytes | None) -> None:
        super().__init__(link)
        self._codec = Codec()
        self._deployment = deployment
        self.session: int | None = None
        self.worker = ""

    async def events(self) -> AsyncIterator[LinkEvent]:
        async for event in self._link.events():
            if not isinstance(event, Inbound) or self._ours(event):
                yield event

    def _ours(self, inbound: Inbound) -> bool:
        if inbound.topic == topics.statement_topic() or topics.worker_of_status(inbound.topic) is not None:
            return True
        if self._deployment is not None and is_keyed(inbound.payload):
            return self._ours_under_keys(inbound.payload, self._deployment)
        return self._ours_in_the_clear(inbound.payload)

    def _ours_under_keys(self, payload: bytes, deployment: bytes) -> bool:
        """Whether it says that it is ours; whether that is so, the node finds out."""
        if wanted_session(payload) == self.session:
            return True
        try:
            envelope = read_envelope(payload)
            if envelope.session == self.session and envelope.introduction is not None:
                self.worker = read_credential(envelope.introduction.credential, deployment).name
        except KeysRefused:
            return False
        return envelope.session == self.session

    def _ours_in_the_clear(self, payload: bytes) -> bool:
        try:
            message = self._codec.decode(payload)
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

    Raises:
        UsageError: the file with its keys cannot be used.
    """
    loaded = draft.loaded
    node = EdgeNode(
        replace(config.node, reuse=False),
        draft.drafter,
        loaded.fingerprint,
        loaded.eos,
        tokenizer=loaded.tokenizer_status,
    )
    keys = config.node.keys
    deployment = None if keys is None else read_identity(keys, KeyRole.EDGE).deployment
    gate: list[_OnlyOurs] = []

    @asynccontextmanager
    async def connect(settings: LinkSettings) -> AsyncIterator[Link]:
        bare = replace(settings, will=None, birth=no_birth, session_expiry=0)
        async with mqtt_link(bare, on_wait=quietly) as link:
            gate.append(_OnlyOurs(link, deployment))
            yield gate[0]

    options = CompletionOptions(
        temperature=0.0, seed=0, limit=_TOKENS, ignore_eos=True, timeout=_SECONDS, version=config.node.version
    )
    # A worker that may run ahead ends so short a text at once: nobody would see that it took the session.
    plan = replace(config.plan, ahead=0)
    generator = CompletionGenerator(node, draft.loaded, plan.new_policy, lambda: _SECONDS)
    began = time.monotonic()
    try:
        async with (
            node.running(connect, base, everyone=True),
            generator.writing((Turn("user", _PROMPT),), options) as writing,
        ):
            gate[0].session = writing.generation.session
            with contextlib.suppress(TimeIsOver):  # the figures say how far it came
                async for _ in writing.pieces():
                    pass
            _report(findings, writing.figures(), gate[0].worker, watch)
    except FlexSpecError as error:
        _explain(findings, config, error, watch, began)
    finally:
        generator.close()


def _report(findings: Findings, figures: Figures, worker: str, watch: Watch) -> None:
    """Report the figures of the text.

    Raises:
        WorkerError: it is not complete.
    """
    if figures.first_token is None or figures.tokens < _TOKENS:
        raise WorkerError(
            f"only {figures.tokens} of {_TOKENS} tokens came within {_SECONDS:g} s",
            hint="the worker is very slow, or its answers get lost: look into its log",
        )
    status = watch.newest(topics.worker_status_topic(worker))
    exactness = (
        status.status.exactness
        if status and isinstance(status.status, WorkerStatus)
        else "of unknown exactness"
    )
    rtt = "" if figures.rtt_ms is None else f", round trip {figures.rtt_ms:.0f} ms"
    findings.ok(
        "text",
        f"{figures.tokens} tokens by worker {worker}, first after {1000 * figures.first_token:.0f} ms{rtt}, "
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


async def check_text_over_api(
    findings: Findings, answering: Answering, config: EdgeConfig, model: str
) -> None:
    """Ask the edge node that runs for a few tokens."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": _PROMPT}],
        "max_tokens": _TOKENS,
        "temperature": 0,
    }
    key = config.api.for_serving().api_key
    began = time.monotonic()
    try:
        async with asyncio.timeout(_SECONDS):
            status, said = await on_thread(
                lambda: post(answering.host, answering.port, "/v1/chat/completions", body, key, _SECONDS)
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
