"""``flexspec-edge doctor``: everything that ``serve`` would need, tried, with the same settings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from edge_node.doctor.api import check_api, our_node
from edge_node.wire import wire_of
from flexspec_mq import topics
from flexspec_mq.catalogue import naming
from flexspec_mq.doctor import exposure, machine, model, statuses
from flexspec_mq.doctor import link as links
from flexspec_mq.doctor.examination import examination
from flexspec_mq.doctor.family import Following, check_family
from flexspec_mq.doctor.threads import on_thread
from flexspec_mq.doctor.watching import LISTENING, Listening, Watch
from flexspec_mq.drafting.engine_choice import extra_of, installed, wants_onnx
from flexspec_mq.errors import ModelError, UsageError
from flexspec_mq.models.cache import families_folder
from flexspec_mq.models.default import CONVERTED_BYTES, default_model_folder
from flexspec_mq.models.draft.default import EXPORTED_BYTES, default_draft_folder
from flexspec_mq.models.onnx.default import GRAPHS_BYTES, default_graphs_folder
from flexspec_mq.models.onnx.folder import can_write, has_graphs
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import NO_SUBSCRIBERS, NOT_AUTHORIZED
from schemas.status import EdgeStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_node.config import EdgeConfig
    from edge_node.doctor.api import Answering
    from edge_node.settings import EdgeSettings
    from flexspec_mq.doctor.findings import Finding, Findings
    from flexspec_mq.drafting.load import DraftModel
    from flexspec_mq.transport.base import Link, LinkSettings
    from schemas.catalogue import Catalogue

    Load = Callable[[EdgeSettings, Callable[[str], None]], DraftModel]

_BEHIND = (
    "login",
    "name",
    "access",
    exposure.NAME,
    "family",
    "worker",
    "tokenizer",
    "clock",
    "qualities",
    "text",
)
CHECKS = ("packages", "cache", "temp", "model", "api", "broker", *_BEHIND)
"""In the order in which they are shown."""


async def examine(
    config: EdgeConfig,
    tell: Callable[[str], None],
    timeout: float,
    *,
    load: Load,
    listening: Listening = LISTENING,
) -> list[Finding]:
    """Check everything; never raises for what is wrong with the setup.

    Args:
        config: as the daemon has it.
        tell: told what is checked now.
        timeout: seconds for all of it.
        load: loads the draft.
        listening: for how long, to statuses.

    Raises:
        UsageError: the settings cannot be used: a file that cannot be read, an API open to the world.
    """
    base = link_settings(config.link, f"e-{config.node.edge}")
    wire_of(config.node)
    config.api.for_serving()
    without = () if config.family.family is not None else ("family",)
    behind = tuple(name for name in _BEHIND if name not in without)
    checks = tuple(name for name in CHECKS if name not in without)
    async with examination("edge", checks, tell, timeout) as findings:
        machine.check_packages(
            findings,
            (extra_of(config.node),),
            {"serve": "`flexspec-edge serve` will not start, `ask` and `chat` will"},
        )
        machine.check_folders(findings, cache_needs(config.node))
        drafting = asyncio.create_task(_draft(findings, config.node, load))
        try:
            answering = await on_thread(lambda: check_api(findings, config.api))
            setup = _Setup(findings, config, base, answering, drafting, listening)
            look = partial(_look, setup)
            await links.examine_broker(findings, base, behind, setup.watch, setup.status_topic, look)
            tell("loading the draft")
            await drafting
        finally:
            drafting.cancel()
    return findings.all


class _Setup:
    """What the checks behind the broker share."""

    def __init__(
        self,
        findings: Findings,
        config: EdgeConfig,
        base: LinkSettings,
        answering: Answering | None,
        drafting: asyncio.Task[DraftModel | None],
        listening: Listening,
    ) -> None:
        self.findings = findings
        self.config = config
        self.base = base
        self.answering = answering
        self.drafting = drafting
        self.watch_for = listening.at_least
        self.watch = Watch(config.node.edge, listening.at_most)
        self.process = 0
        self.asked = config.node.version  # of a running edge node, which knows the family

    @property
    def here(self) -> str:
        """The edge node on this machine that may be the one that the broker knows; empty if there is none."""
        if self.answering is not None:
            return f"it is the one that serves {self.answering.url} here"
        return f"flexspec-edge runs here (process {self.process})" if self.process else ""

    @property
    def epoch(self) -> float:
        """When the edge node that the broker knows was made; seconds since the Unix epoch."""
        known = self.watch.newest(self.status_topic)
        return 0.0 if known is None else known.status.epoch / 1000

    def look_around(self) -> None:
        """Look for an edge node of this machine that is connected to the broker, and for its API. Blocks."""
        for number in machine.connected(self.base.port, "edge_node", "flexspec-edge"):
            if not machine.just_before(number, self.epoch):
                continue
            self.process = number
            for port in machine.ports_of(number):
                self.answering = self.answering or our_node("127.0.0.1", port)

    @property
    def status_topic(self) -> str:
        return topics.edge_status_topic(self.config.node.edge)


async def _catalogue(setup: _Setup, link: Link) -> Catalogue | None:
    config = setup.config
    following = Following(
        "family",
        config.node.edge,
        config.link.username,
        config.family,
        lambda: families_folder(config.family.state_dir),
        "no version can be asked for",
    )
    known = setup.watch.newest(setup.status_topic)
    status = None if known is None else known.status
    running = status.catalogue if isinstance(status, EdgeStatus) else None
    return await check_family(setup.findings, following, setup.watch, link, running)


async def _look(setup: _Setup, link: Link) -> str:
    findings, watch, node = setup.findings, setup.watch, setup.config.node
    findings.tell("listening for workers and other edge nodes")
    # Fresh statuses, and a fight for our name, show only to who waits; the draft is being loaded meanwhile.
    await watch.until(lambda: bool(watch.fights(setup.status_topic)), setup.watch_for)
    online = statuses.online(watch, setup.status_topic)
    if online and setup.answering is None:
        await on_thread(setup.look_around)
    if setup.config.family.family is not None:
        catalogue = await _catalogue(setup, link)
        if catalogue is None:
            findings.skip(("worker", "tokenizer", "text"), "no version of the family is known")
            await setup.drafting
            return setup.here
        setup.asked = setup.config.family.family
        node = replace(node, version=naming.stable(catalogue).name)
        setup.config = replace(setup.config, node=node)
    findings.tell("trying the access rules")
    listening = await _check_access(setup, link)
    mine = setup.config.link
    secrets = (mine.password_file, mine.tls_key, node.keys)
    await exposure.check_exposure(findings, link, setup.base, secrets, keyed=node.keys is not None)
    living = statuses.check_workers(findings, watch, node.version, listening)
    statuses.check_clock(findings, watch)
    findings.tell("loading the draft")
    draft = await setup.drafting
    if draft is None or not living:
        why = "the draft cannot be loaded" if draft is None else f"no worker serves {node.version!r}"
        findings.skip(("tokenizer", "text"), why)
    else:
        statuses.check_tokenizer(findings, living, draft.loaded)
        await _check_text(setup, draft, online)
    return setup.here


async def _check_access(setup: _Setup, link: Link) -> bool | None:
    """Try to publish where the edge does. Whether somebody subscribes to opens of the version; None if unknown."""
    findings, node, user = setup.findings, setup.config.node, setup.base.username
    opens = topics.open_topic(node.version, node.edge)
    known = setup.watch.newest(setup.status_topic)
    if known is None:  # true, and of an epoch that nobody takes for news
        gone = EdgeStatus(state="gone", epoch=0, at=0, edge=node.edge)
        status = setup.watch.codec.encode_status(gone)
    else:
        status = known.payload
    said: dict[str, int] = {}
    # The rules may spell out the workers, so drafts are tried with one that is there.
    workers = [seen.status.worker for seen in setup.watch.workers()][:1]  # type: ignore[union-attr]
    for topic, payload, loss in (
        (opens, links.NOT_A_SESSION, "no text could begin"),
        *(
            (topics.draft_topic(one, node.edge), links.NOT_A_SESSION, "drafts could not be sent")
            for one in workers
        ),
        (setup.status_topic, status, "the edge node could not tell its status, and would refuse to start"),
    ):
        said[topic] = await links.may_publish(link, topic, payload)
        if said[topic] == NOT_AUTHORIZED:
            links.forbidden(findings, node.edge, user, f"publish on {topic}", loss)
    for topic in setup.watch.blind:
        links.forbidden(findings, node.edge, user, f"read {topic}", "we cannot see who is there")
    if said[opens] == 0 and not setup.watch.workers() and not setup.watch.blind:
        loss = "a worker is there, and its status does not reach us"
        links.forbidden(findings, node.edge, user, f"read {topics.worker_status_topic('+')}", loss)
    if not findings.failed("access"):
        findings.ok("access", f"may publish on {', '.join(said)}")
    if said[opens] == NOT_AUTHORIZED:
        return None
    return said[opens] != NO_SUBSCRIBERS


async def _check_text(setup: _Setup, draft: DraftModel, online: bool) -> None:
    # It imports torch, without which all else can be checked; here the draft is loaded already.
    from edge_node.doctor.text import check_text, check_text_over_api

    findings, config = setup.findings, setup.config
    if findings.failed("tokenizer") or findings.failed("access"):
        findings.skip(["text"], "it could not come to anything before the faults above are mended")
    elif online and setup.answering is not None:
        # The running node would take our verdicts for strays, and close our session: so it is asked itself.
        findings.tell("asking the running edge node for a text")
        await check_text_over_api(findings, setup.answering, config, setup.asked)
    elif online:
        findings.skip(["text"], "answers would go to the edge node of this name that is online")
    else:
        findings.tell("writing a text")
        await check_text(
            findings,
            replace(config, node=replace(config.node, give_up=12.0, queue_patience=5.0)),
            links.as_doctor(setup.base, links.PATIENCE),
            draft,
            setup.watch,
        )


async def _draft(findings: Findings, settings: EdgeSettings, load: Load) -> DraftModel | None:
    what = "the draft"
    if (
        settings.tokenizer is None
        and settings.draft in ("default", "none")
        and not _has_default_graphs(settings)
        and model.unprepared_default(findings, what)
    ):
        return None
    return await model.loaded(
        findings,
        f"{what} {settings.draft}",
        lambda: load(settings, lambda _text: None),
        lambda found: (
            f"draft {found.loaded.name} on {settings.device}, {settings.dtype}, {found.engine}"
            if settings.draft != "none"
            else f"no draft; tokenizer of {found.loaded.name}"
        ),
    )


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
