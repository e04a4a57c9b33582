"""``flexspec-edge doctor``: everything that ``serve`` would need, tried, with the same settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edge_node.api.client import RunningNode, find_node, reached_at
from edge_node.wire import wire_of
from flexspec_mq import topics, waiting
from flexspec_mq.doctor.checks import Check, Report
from flexspec_mq.doctor.daemon import NOT_A_SESSION, DaemonDoctor
from flexspec_mq.doctor.machine import check_port, load_model
from flexspec_mq.doctor.statuses import check_clock, check_workers
from flexspec_mq.errors import ModelError
from flexspec_mq.models.onnx.folder import default_graphs_folder, has_graphs
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import NO_SUBSCRIBERS, NOT_AUTHORIZED
from schemas.status import EdgeStatus, WorkerStatus

if TYPE_CHECKING:
    from edge_node.config import EdgeConfig
    from edge_node.settings import EdgeSettings
    from flexspec_mq.drafting.load import DraftModel

    Load = Callable[[EdgeSettings, Callable[[str], None]], DraftModel]

_ABOVE = "it could not come to anything before the faults above are mended"
_NO_SERVER = {"serve": "`flexspec-edge serve` will not start, `ask` will"}


class EdgeDoctor(DaemonDoctor):
    """The doctor of an edge node.

    Attributes:
        node: The edge node of this machine that serves an API.
        draft: The draft, once it is loaded.

    Raises:
        UsageError: the settings cannot be used: a file that cannot be read, an API open to the world.
    """

    def __init__(self, config: EdgeConfig, load: Load, listening: float = waiting.DOCTOR_LISTENS) -> None:
        link, edge = config.link, config.node
        settings = link_settings(link, f"e-{edge.edge}")
        self.trust = wire_of(edge).trust
        config.api.for_serving()
        topic = topics.edge_status_topic(edge.edge)
        super().__init__(edge.edge, settings, topic, edge.version, config.family, listening)
        self.config = config
        self.node: RunningNode | None = None
        self.draft: DraftModel | None = None
        self.keys, self.secrets = edge.keys, (link.password_file, link.tls_key)
        self._load = load
        self._listening: bool | None = None
        self._workers: list[WorkerStatus] = []

    def table(self) -> Sequence[Check]:
        """The checks of an edge node."""
        port = Check("api", self._check_api, doing="looking at the API's port")
        model = Check("model", self._load_draft, (), "the draft cannot be loaded", "loading the draft")
        return (
            *self.shared_rows(("edge",), _NO_SERVER, port, model),
            Check("access", self._check_access, ("login", "catalogue"), _ABOVE, "trying the access rules"),
            Check("exposure", self.check_exposure, ("login",)),
            Check("worker", self._check_workers, ("login", "catalogue"), "no worker serves the version"),
            Check("tokenizer", self._check_tokenizer, ("model", "worker"), _ABOVE),
            Check("clock", lambda report: check_clock(report, self.watch), ("login",)),
            Check("text", self._check_text, ("tokenizer", "access"), doing="writing a text"),
        )

    async def _load_draft(self, report: Report) -> None:
        node = self.config.node

        def describe(draft: DraftModel) -> str:
            if node.draft == "none":
                return f"no draft; tokenizer of {draft.loaded.name}"
            return f"draft {draft.loaded.name}, {draft.engine}"

        def load() -> DraftModel:
            return self._load(node, lambda _text: None)

        default = node.tokenizer is None and node.draft in ("default", "none") and not _has_default_graphs()
        self.draft = await load_model(report, f"the draft {node.draft}", load, describe, default=default)

    async def _check_api(self, report: Report) -> None:
        host, port = self.config.api.api_host, self.config.api.api_port

        def ours() -> str:
            self.node = find_node(reached_at(host), port)
            if self.node is None:
                return ""
            serves = ", ".join(filter(None, (f"an edge node serves {self.node.url}", self.node.state)))
            if self.node.not_ready:
                detail = f"{serves}, and is not ready: {self.node.not_ready}"
                report.warn(detail, "what is wrong is among the other findings")
                return ""
            self.here = f"it is the one that serves {self.node.url} here"
            return serves

        await check_port(report, host, port, "the API", "--api-port", ours)

    async def _check_access(self, report: Report) -> None:
        """Try to publish where the edge does."""
        watch = self.watch
        opens = topics.open_topic(self.version, self.name)
        if watch.newest is None:  # true, and of an epoch that nobody takes for news
            gone = EdgeStatus(state="gone", epoch=0, at=0, edge=self.name)
            status = watch.codec.encode_status(gone)
        else:
            status = watch.newest.payload
        tries = {opens: (NOT_A_SESSION, "no text could begin")}
        # The rules may spell out the workers: one that is there is tried.
        for worker, _ in watch.workers()[:1]:
            tries[topics.draft_topic(worker.worker, self.name)] = (NOT_A_SESSION, "drafts could not be sent")
        tries[watch.topic] = (status, "the edge node could not tell its status, and would refuse to start")
        codes = {topic: await self.may_publish(topic, payload) for topic, (payload, _) in tries.items()}
        for topic, (_, loss) in tries.items():
            if codes[topic] == NOT_AUTHORIZED:
                self.forbidden(report, f"publish on {topic}", loss)
        for topic in watch.blind:
            self.forbidden(report, f"read {topic}", "we cannot see who is there")
        if codes[opens] == 0 and not watch.workers() and not watch.blind:
            loss = "a worker is there, and its status does not reach us"
            self.forbidden(report, f"read {topics.worker_status_topic('+')}", loss)
        if not report.failed:
            report.ok(f"may publish on {', '.join(tries)}")
        if codes[opens] != NOT_AUTHORIZED:
            self._listening = codes[opens] != NO_SUBSCRIBERS

    def _check_workers(self, report: Report) -> None:
        self._workers = check_workers(report, self.watch, self.version, self._listening)

    def _check_tokenizer(self, report: Report) -> None:
        # It imports numpy, without which all else can be checked; here the draft is loaded already.
        from edge_node.fleet.target_texts import OTHER_VOCABULARY, TargetTexts

        assert self.draft is not None  # noqa: S101  this check needs it
        texts = TargetTexts(self.draft)
        short = self.draft.loaded.fingerprint.hex()[:12]
        stated = [status for status in self._workers if status.fingerprint]
        fatal, harmless = [], []
        for status in stated:
            if texts.of(status) is None and (told := self.watch.texts.get(status.worker)):
                texts.read(status, told)
            how = texts.difference(status)
            if how.fatal:
                fatal.append(f"worker {status.worker} has {status.fingerprint[:12]}…: {how.fatal}")
            if how.harmless:
                harmless.append(f"worker {status.worker}: {how.harmless}")
        if not stated:
            report.skip("no worker says which tokenizer its target has")
        elif fatal:
            report.fail("wrong tokenizer", f"ours is {short}…, and {', '.join(fatal)}", OTHER_VOCABULARY)
        elif harmless:
            report.warn(
                f"token ids are the target's; {', '.join(harmless)}", "texts are the target's all the same"
            )
        else:
            report.ok(f"that of the target ({short}…)")

    async def _check_text(self, report: Report) -> None:
        # It imports what runs models, without which all else can be checked; here the draft is loaded already.
        from edge_node.doctor.text import check_text, check_text_over_api

        assert self.draft is not None  # noqa: S101  this check needs it
        if not self.watch.online:
            settings = replace(self.config.node, version=self.version)
            await check_text(report, self, replace(self.config, node=settings), self.draft, self._workers)
        elif self.node is None:
            report.skip("answers would go to the edge node of this name that is online")
        else:  # it would take our verdicts for strays, and close our session: so it is asked itself
            asked = self.family.family or self.version
            await check_text_over_api(report, self.node, self.config.api, asked)


def _has_default_graphs() -> bool:
    """Whether the default draft's graphs are in the cache."""
    try:
        return has_graphs(default_graphs_folder())
    except ModelError:
        return False
