"""``flexspec-edge doctor``: everything that ``serve`` would need, tried, with the same settings."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edge_node.api.client import find_node, reached_at
from edge_node.wire import wire_of
from flexspec_mq import topics
from flexspec_mq.catalogue import naming
from flexspec_mq.doctor.checks import Check
from flexspec_mq.doctor.daemon import LOGIN, MODEL, NOT_A_SESSION, DaemonDoctor
from flexspec_mq.doctor.family import check_family
from flexspec_mq.doctor.machine import check_port, load_model
from flexspec_mq.doctor.processes import connected
from flexspec_mq.doctor.statuses import check_clock, check_tokenizer, check_workers
from flexspec_mq.doctor.watch import Listening
from flexspec_mq.drafting.settings import extra_of, installed, wants_onnx
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.cache import families_folder
from flexspec_mq.models.default import (
    CONVERTED_BYTES,
    EXPORTED_BYTES,
    default_draft_folder,
    default_model_folder,
)
from flexspec_mq.models.onnx.folder import GRAPHS_BYTES, can_write, default_graphs_folder, has_graphs
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import NO_SUBSCRIBERS, NOT_AUTHORIZED
from schemas.status import EdgeStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from edge_node.api.client import RunningNode
    from edge_node.config import EdgeConfig
    from edge_node.settings import EdgeSettings
    from flexspec_mq.doctor.checks import Report
    from flexspec_mq.drafting.load import DraftModel
    from schemas.status import WorkerStatus

    Load = Callable[[EdgeSettings, Callable[[str], None]], DraftModel]

_NO_DRAFT = "the draft cannot be loaded"
_ABOVE = "it could not come to anything before the faults above are mended"
_NO_SERVER = {"serve": "`flexspec-edge serve` will not start, `ask` and `batch` will"}


class EdgeDoctor(DaemonDoctor):
    """The doctor of an edge node.

    Attributes:
        node: The edge node of this machine that serves an API.
        draft: The draft, once it is loaded.
        asked: Name of the version or family that a running edge node is asked for.

    Raises:
        UsageError: the settings cannot be used: a file that cannot be read, an API open to the world.
    """

    def __init__(self, config: EdgeConfig, load: Load, listening: Listening | None = None) -> None:
        name = config.node.edge
        settings = link_settings(config.link, f"e-{name}")
        wire_of(config.node)
        config.api.for_serving()
        super().__init__("edge", name, settings, topics.edge_status_topic(name), listening or Listening())
        self.config = config
        self.node: RunningNode | None = None
        self.draft: DraftModel | None = None
        self.asked = config.node.version
        self.keys, self.secrets = config.node.keys, (config.link.password_file, config.link.tls_key)
        self._load = load
        self._listening: bool | None = None
        self._workers: list[WorkerStatus] = []

    def table(self) -> Sequence[Check]:
        """The checks of an edge node."""
        node = self.config.node
        table = (
            *self.machine_rows((extra_of(node),), _NO_SERVER, cache_needs(node)),
            Check(MODEL, self._load_draft, (), _NO_DRAFT, "loading the draft", turn=1, background=True),
            Check("api", self._check_api, doing="looking at the API's port"),
            *self.broker_rows(),
            Check("family", self._check_family, (LOGIN,), "no version of the family is known"),
            Check("access", self._check_access, (LOGIN, "family"), _ABOVE, "trying the access rules"),
            Check("exposure", self.check_exposure, (LOGIN,)),
            Check("worker", self._check_workers, (LOGIN, "family"), "no worker serves the version"),
            Check("tokenizer", self._check_tokenizer, (MODEL, "worker"), _ABOVE, turn=2),
            Check("clock", lambda report: check_clock(report, self.watch), (LOGIN,)),
            self.quality_row(),
            Check("text", self._check_text, ("tokenizer", "access"), doing="writing a text", turn=2),
        )
        follows = self.config.family.family is not None
        return [check for check in table if follows or check.name != "family"]

    async def _load_draft(self, report: Report) -> None:
        node = self.config.node

        def describe(draft: DraftModel) -> str:
            if node.draft == "none":
                return f"no draft; tokenizer of {draft.loaded.name}"
            return f"draft {draft.loaded.name} on {node.device}, {node.dtype}, {draft.engine}"

        def load() -> DraftModel:
            return self._load(node, lambda _text: None)

        default = (
            node.tokenizer is None and node.draft in ("default", "none") and not _has_default_graphs(node)
        )
        self.draft = await load_model(report, f"the draft {node.draft}", load, describe, default=default)

    async def _check_api(self, report: Report) -> None:
        host, port = self.config.api.api_host, self.config.api.api_port

        def ours() -> str:
            self.node = find_node(reached_at(host), port)
            if self.node is not None and self.node.not_ready:
                detail = (
                    f"an edge node serves {self.node.url} already, and is not ready: {self.node.not_ready}"
                )
                report.warn(detail, "what is wrong is among the other findings")
                return ""
            return "" if self.node is None else f"an edge node serves {self.node.url}"

        await check_port(report, host, port, "the API", "--api-port", ours)

    def look_here(self) -> str:
        """Describe the edge node of this machine that the broker knows. Blocks."""
        if self.node is not None:
            return f"it is the one that serves {self.node.url} here"
        found = connected(self.settings.port, ("edge_node", "flexspec-edge"), self.watch.born)
        return f"flexspec-edge runs here (process {found[0]})" if found else ""

    async def _check_family(self, report: Report) -> None:
        options = self.config.family
        folder = partial(families_folder, options.state_dir)
        catalogue = await check_family(report, self, options, folder, "no version can be asked for")
        if catalogue is not None:
            self.asked = catalogue.family
            node = replace(self.config.node, version=naming.stable(catalogue).name)
            self.config = replace(self.config, node=node)

    async def _check_access(self, report: Report) -> None:
        """Try to publish where the edge does."""
        watch, version = self.watch, self.config.node.version
        opens = topics.open_topic(version, self.name)
        if watch.newest is None:  # true, and of an epoch that nobody takes for news
            gone = EdgeStatus(state="gone", epoch=0, at=0, edge=self.name)
            status = watch.codec.encode_status(gone)
        else:
            status = watch.newest.payload
        tries = {opens: (NOT_A_SESSION, "no text could begin")}
        for worker, _ in watch.workers()[
            :1
        ]:  # the rules may spell out the workers: one that is there is tried
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
        version = self.config.node.version
        self._workers = check_workers(report, self.watch, version, self._listening)

    def _check_tokenizer(self, report: Report) -> None:
        assert self.draft is not None  # noqa: S101  this check needs it
        check_tokenizer(report, self._workers, self.draft.loaded)

    async def _check_text(self, report: Report) -> None:
        # It imports torch, without which all else can be checked; here the draft is loaded already.
        from edge_node.doctor.text import check_text, check_text_over_api

        assert self.draft is not None  # noqa: S101  this check needs it
        if not self.watch.online:
            await check_text(report, self, self.config, self.draft, self._workers)
        elif self.node is None:
            report.skip("answers would go to the edge node of this name that is online")
        else:  # it would take our verdicts for strays, and close our session: so it is asked itself
            await check_text_over_api(report, self.node, self.config.api, self.asked)


def _has_default_graphs(settings: EdgeSettings) -> bool:
    """Whether the default draft's graphs are in the cache, and are what the daemon would use."""
    try:
        return wants_onnx(settings) and has_graphs(default_graphs_folder())
    except (ModelError, UsageError):
        return False


def cache_needs(settings: EdgeSettings) -> int:
    """Bytes that the first start would still write to the cache."""
    if settings.tokenizer is not None or settings.draft not in ("default", "none"):
        return 0
    drafts = settings.draft != "none"
    try:
        onnx = wants_onnx(settings)
        if has_graphs(default_graphs_folder()) and (onnx or not drafts):
            return 0
        model = 0 if default_model_folder().is_dir() else CONVERTED_BYTES
        draft = 0 if not drafts or default_draft_folder().is_dir() else EXPORTED_BYTES
        graphs = GRAPHS_BYTES if drafts and onnx and installed("onnxruntime") and can_write() else 0
    except (ModelError, UsageError):
        return 0
    return model + draft + graphs
