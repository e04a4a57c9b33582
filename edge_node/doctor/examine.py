"""``flexspec-edge doctor``: everything that ``serve`` would need, tried, with the same settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edge_node.api.client import RunningNode, find_node, reached_at
from edge_node.wire import wire_of
from flexspec_mq import topics, waiting
from flexspec_mq.doctor import checks
from flexspec_mq.doctor.checks import Fault, Said, Skipped, Warned
from flexspec_mq.doctor.daemon import NOT_A_SESSION, DaemonDoctor
from flexspec_mq.doctor.machine import check_packages, check_port, load_model
from flexspec_mq.doctor.statuses import living_workers
from flexspec_mq.errors import ModelError
from flexspec_mq.models.default import default_model_folder
from flexspec_mq.models.onnx.folder import default_graphs_folder, has_graphs
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import NO_SUBSCRIBERS, NOT_AUTHORIZED
from schemas.status import EdgeStatus, WorkerStatus

if TYPE_CHECKING:
    from edge_node.config import EdgeConfig
    from edge_node.settings import EdgeSettings
    from flexspec_mq.drafting.load import DraftModel

    Load = Callable[[EdgeSettings, Callable[[str], None]], DraftModel]

_NO_DRAFT = {"draft": "no target but a server's writes for this device, and no draft runs on it"}


class EdgeDoctor(DaemonDoctor):
    """The doctor of an edge node.

    Raises:
        UsageError: the settings cannot be used: a file that cannot be read, an API open to the world.
    """

    program = "edge"
    _node: RunningNode | None = None
    """The edge node of this machine that serves an API."""
    _draft: DraftModel
    _listening: bool | None = None
    """Whether somebody subscribes to our opens, once that was tried."""
    _workers: Sequence[WorkerStatus] = ()

    def __init__(
        self, config: EdgeConfig, load: Load, listening: float = waiting.STATUS + waiting.ANSWER
    ) -> None:
        link, edge = config.link, config.node
        settings = link_settings(link, f"e-{edge.edge}")
        self.trust = wire_of(edge).trust
        config.api.for_serving()
        topic = topics.edge_status_topic(edge.edge)
        super().__init__(edge.edge, settings, topic, edge.version, config.family, listening)
        self.keys, self.secrets = edge.keys, (link.password_file, link.tls_key)
        self._config = config
        self._load = load

    def probes(self) -> dict[str, checks.Probe]:
        """Probes of an edge node, by the names of their checks."""
        return super().probes() | {
            "packages": partial(check_packages, ("edge",), _NO_DRAFT),
            "api": self._check_api,
            "model": self._load_draft,
            "access": self._check_access,
            "worker": self._check_worker,
            "tokenizer": self._check_tokenizer,
            "text": self._check_text,
        }

    async def _load_draft(self) -> str:
        node = self._config.node
        default = (
            node.draft == "default" and node.pair in (None, "default") and _is_made_of_the_default_model()
        )
        load = partial(self._load, node, lambda _text: None)
        what = f"the draft {node.draft}" if node.pair is None else f"the draft of the pair {node.pair}"
        draft = self._draft = await load_model(what, load, default=default)
        if draft.loaded is None:
            return "no draft; a worker gives the target's tokenizer"
        if draft.model is None:
            return f"no draft; tokenizer of {draft.loaded.name}"
        return f"draft {draft.loaded.name}, {draft.engine}"

    async def _check_api(self) -> str:
        host, port = self._config.api.api_host, self._config.api.api_port

        def ours() -> str:
            self._node = find_node(reached_at(host), port)
            if self._node is None:
                return ""
            serves = ", ".join(filter(None, (f"an edge node serves {self._node.url}", self._node.state)))
            if self._node.not_ready:
                detail = f"{serves}, and is not ready: {self._node.not_ready}"
                raise Warned(detail, "what is wrong is among the other findings")
            self.here = f"it is the one that serves {self._node.url} here"
            return serves

        return await check_port(host, port, "the API", "--api-port", ours)

    async def _check_access(self) -> list[Said]:
        """Try to publish where the edge does."""
        watch = self.watch
        # Without one of ours: true, and of an epoch that nobody takes for news.
        gone = watch.codec.encode_status(EdgeStatus(state="gone", epoch=0, at=0, edge=self.name))
        opens = topics.open_topic(self.version, self.name)
        tries = {opens: (NOT_A_SESSION, "no text could begin")}
        # The rules may spell out the workers: one that is there is tried.
        for worker, _ in watch.workers()[:1]:
            tries[topics.draft_topic(worker.worker, self.name)] = (NOT_A_SESSION, "drafts could not be sent")
        status = gone if watch.newest is None else watch.newest.payload
        tries[watch.topic] = (status, "the edge node could not tell its status, and would refuse to start")
        codes = {topic: await self.may_publish(topic, payload) for topic, (payload, _) in tries.items()}
        found = [
            self.forbidden(f"publish on {topic}", loss)
            for topic, (_, loss) in tries.items()
            if codes[topic] == NOT_AUTHORIZED
        ] + self.blind()
        if codes[opens] == 0 and not watch.workers() and not watch.blind:
            loss = "a worker is there, and its status does not reach us"
            found.append(self.forbidden(f"read {topics.worker_status_topic('+')}", loss))
        if codes[opens] != NOT_AUTHORIZED:
            self._listening = codes[opens] != NO_SUBSCRIBERS
        return [*found] or [f"may publish on {', '.join(tries)}"]

    def _check_worker(self) -> str:
        self._workers = living_workers(self.watch, self.version, self._listening)
        return "; ".join(
            f"{status.worker} serves {self.version!r}, {status.load} of {status.capacity} sessions, verification "
            f"{status.exactness}"
            for status in self._workers
        )

    def _check_tokenizer(self) -> str:
        # It imports numpy, without which all else can be checked; here the draft is loaded already.
        from edge_node.fleet.target_texts import OTHER_VOCABULARY, TargetTexts

        texts, own = TargetTexts(self._draft), self._draft.loaded
        short = "none" if own is None else f"{own.fingerprint.hex()[:12]}…"
        stated = [status for status in self._workers if status.fingerprint]
        fatal, harmless, gives = [], [], []
        for status in stated:
            if status.tokenizer is not None and texts.lacks(status.tokenizer):
                gives.append(status.worker)
                continue
            if texts.of(status) is None and (told := self.watch.texts.get(status.worker)):
                texts.read(status, told)
            how = texts.difference(status)
            if how.fatal:
                fatal.append(f"worker {status.worker} has {status.fingerprint[:12]}…: {how.fatal}")
            if how.harmless:
                harmless.append(f"worker {status.worker}: {how.harmless}")
        if not stated:
            raise Skipped("no worker says which tokenizer its target has")
        if fatal:
            raise Fault("wrong tokenizer", f"ours is {short}, and {', '.join(fatal)}", OTHER_VOCABULARY)
        if harmless:
            detail = f"token ids are the target's; {', '.join(harmless)}"
            raise Warned(detail, "texts are the target's all the same")
        if gives:
            return f"ours is {short}; fetched from {' or '.join(gives)}, once"
        return f"that of the target ({short})"

    async def _check_text(self) -> str:
        # It imports what runs models, without which all else can be checked; here the draft is loaded already.
        from edge_node.doctor.text import text_over_api, text_over_broker

        if not self.watch.online:
            config = replace(self._config, node=replace(self._config.node, version=self.version))
            return await text_over_broker(self.settings, config, self._draft, self._workers)
        if self._node is None:
            raise Skipped("answers would go to the edge node of this name that is online")
        # It would take our verdicts for strays, and close our session: so it is asked itself.
        return await text_over_api(self._node, self._config.api, self.family.family or self.version)


def _is_made_of_the_default_model() -> bool:
    """Whether the default draft is not there yet, and what it is made of is installed."""
    try:
        return not has_graphs(default_graphs_folder()) and bool(default_model_folder())
    except ModelError:
        return False
