"""A short text, end to end: through the broker as the edge node would, or through the one that runs already."""

from __future__ import annotations

import contextlib
import http.client
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edge_node.api.client import RunningNode, ask
from edge_node.api.settings import ApiSettings
from edge_node.fleet.target_texts import TargetTexts
from edge_node.node import EdgeNode
from edge_node.text.generator import CompletionGenerator
from edge_node.text.spec import TextSpec
from flexspec_mq import entropy, topics, waiting
from flexspec_mq.daemon.tasks import on_thread
from flexspec_mq.doctor.broker import beside
from flexspec_mq.doctor.checks import Fault
from flexspec_mq.errors import FlexSpecError, LinkError, PublishRefused, TimeIsOver, WorkerError
from flexspec_mq.models.cache import cache_folder
from flexspec_mq.models.text import Turn
from flexspec_mq.transport.base import NOT_AUTHORIZED, LinkSettings, no_birth
from flexspec_mq.transport.link import Link
from flexspec_mq.transport.mqtt import mqtt_link
from schemas.messages import PartialSampling
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from edge_node.config import EdgeConfig
    from flexspec_mq.drafting.load import DraftModel

_PROMPT = "Say hello."
_TOKENS = 4


def _connect(given: LinkSettings) -> AbstractAsyncContextManager[Link]:
    """A link without a status of ours."""
    bare = replace(given, will=None, birth=no_birth, session_expiry=0)
    return mqtt_link(bare, on_wait=lambda _waiting: None)


async def text_over_broker(
    link: LinkSettings, config: EdgeConfig, draft: DraftModel, workers: Sequence[WorkerStatus]
) -> str:
    """Write a few tokens through the broker, with a link that is not the daemon's own.

    Raises:
        UsageError: the file with its keys cannot be used.
        Fault: no text came.
    """
    loaded = draft.loaded
    settings = replace(config.node, wait=waiting.UNLINKED, reuse=False)
    own = (b"", ()) if loaded is None else (loaded.fingerprint, loaded.eos)
    texts = TargetTexts(draft, settings.edge, partial(cache_folder, "tokenizers"))
    node = EdgeNode(settings, draft.drafter, *own, texts=texts)
    spec = TextSpec(
        prompt=(Turn("user", _PROMPT),),
        sampling=PartialSampling(0.0),
        seed=0,
        limit=_TOKENS,
        ignore_eos=True,
        timeout=waiting.STALLED,
        version=settings.version,
    )
    generator = CompletionGenerator(node, loaded, config.plan.new_policy)
    try:
        async with (
            node.running(_connect, replace(beside(link), give_up_after=waiting.CONNECT)),
            generator.writing(spec) as writing,
        ):
            # It may end with its first piece, and then no worker holds it any more: it was one of those that serve.
            worker = " or ".join(status.worker for status in workers)
            with contextlib.suppress(TimeIsOver):  # the figures say how far it came
                async for _ in writing.pieces():
                    worker = writing.figures().worker or worker
            figures = writing.figures()
        if figures.first_token is None or figures.tokens < _TOKENS:
            raise WorkerError(
                f"only {figures.tokens} of {_TOKENS} tokens came within {waiting.STALLED:g} s",
                hint="the worker is very slow, or its answers get lost: look into its log",
            )
    except FlexSpecError as error:
        raise _explained(error, link, config.node.edge) from error
    finally:
        generator.close()
    rtt = "" if figures.rtt_ms is None else f", round trip {figures.rtt_ms:.0f} ms"
    return (
        f"{figures.tokens} tokens by worker {worker}, first after {1000 * figures.first_token:.0f} ms{rtt}, "
        f"verification {figures.exactness or 'of unknown exactness'}"
    )


def _explained(error: FlexSpecError, link: LinkSettings, name: str) -> Fault:
    user = link.username or "anonymous"
    if isinstance(error, PublishRefused) and error.reason_code == NOT_AUTHORIZED:
        return Fault("ACL refusal", error.message, f"{error.hint} {user}")
    advice = error.hint or "look into the worker's log"
    if isinstance(error, WorkerError):
        advice += (
            f"; if no worker said a word, let user {user!r} read {topics.verdict_topic(name)}, and the worker's user "
            "write it"
        )
    fault = "link lost" if isinstance(error, LinkError) else "no text"
    return Fault(fault, f"no text came: {error.message}", advice)


async def text_over_api(node: RunningNode, api: ApiSettings, model: str) -> str:
    """Ask the edge node that runs for a few tokens.

    Raises:
        Fault: no text came.
    """
    message = {"role": "user", "content": _PROMPT}
    body = {"model": model, "messages": [message], "max_tokens": _TOKENS, "temperature": 0}
    request = partial(ask, node.host, node.port, "/v1/chat/completions", body, key=api.for_serving().api_key)
    began = entropy.now()
    try:
        status, answer = await on_thread(partial(request, timeout=waiting.STALLED))
    except (OSError, http.client.HTTPException, ValueError) as error:
        detail = f"the running edge node at {node.url} did not answer within {waiting.STALLED:g} s: {error}"
        raise Fault("no text", detail, "look into its log, and start it again") from error
    if status == 200:
        tokens = answer.get("usage", {}).get("completion_tokens", "?")
        milliseconds = 1000 * (entropy.now() - began)
        return f"{tokens} tokens in {milliseconds:.0f} ms from the running edge node at {node.url}"
    why = answer.get("error", {})
    hint = "give the doctor the API key that the daemon has: api_key_file, or FLEXSPEC_EDGE_API_KEY"
    detail = (
        f"the running edge node at {node.url} refused a text ({status}): {why.get('message', 'no reason')}"
    )
    raise Fault("no text", detail, hint if status == 401 else str(why.get("hint") or "look into its log"))
