"""``flexspec-cloud doctor``: everything that a worker would need, tried, with the same settings."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cloud_worker.wire import WorkerWire
from flexspec_mq import topics, waiting
from flexspec_mq.doctor.checks import Check, Report
from flexspec_mq.doctor.daemon import NOT_A_SESSION, DaemonDoctor
from flexspec_mq.doctor.machine import check_port, load_model
from flexspec_mq.doctor.statuses import check_clock
from flexspec_mq.errors import LinkError, LinkRefused
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import NOT_AUTHORIZED
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from cloud_worker.settings import CloudConfig, WorkerSettings
    from flexspec_mq.models.load import LoadedText

    Load = Callable[[WorkerSettings], LoadedText]


class WorkerDoctor(DaemonDoctor):
    """The doctor of a worker.

    Attributes:
        target: The target, once it is loaded.

    Raises:
        UsageError: the settings cannot be used: a file that cannot be read.
    """

    def __init__(
        self, config: CloudConfig, load: Load | None = None, listening: float = waiting.DOCTOR_LISTENS
    ) -> None:
        link, worker = config.link, config.worker
        settings = link_settings(link, f"w-{worker.worker}")
        self._wire = WorkerWire(worker, 0)
        topic = topics.worker_status_topic(worker.worker)
        super().__init__(worker.worker, settings, topic, worker.version, config.family, listening)
        self.config = config
        self.target: LoadedText | None = None
        self._load = load
        self.keys, self.secrets = worker.keys, (link.password_file, link.tls_key, worker.share_groups)
        if (keys := self._wire.keys) is not None:
            self.trust = keys.trust
        self.public_group = worker.share_groups is None

    def table(self) -> Sequence[Check]:
        """The checks of a worker."""
        useful = {} if self.config.metrics.metrics_port is None else {"serve": "--metrics-port will not work"}
        wanted = {"heads": self.family.family, "few-bits": self.config.worker.weights != "native"}
        models = "servers" if self.config.worker.engine == "vllm" else "models"
        extras = (models, *(extra for extra, needed in wanted.items() if needed))
        port = Check("metrics", self._check_metrics)
        model = Check("model", self._load_target, (), "the target cannot be loaded", "loading the target")
        return (
            *self.shared_rows(extras, useful, port, model),
            Check("access", self._check_access, ("login",), doing="trying the access rules"),
            Check("exposure", self.check_exposure, ("login",)),
            Check("tokenizer", self._check_tokenizers, ("model", "login", "catalogue")),
            Check("clock", lambda report: check_clock(report, self.watch), ("login",)),
        )

    async def _load_target(self, report: Report) -> None:
        settings = self.config.worker

        def describe(loaded: LoadedText) -> str:
            if settings.engine_url is not None:
                return f"target {loaded.name} at {settings.engine_url}, with the same tokenizer"
            return f"target {loaded.name} on {settings.device}, {settings.dtype}; its proof runs at the start"

        def load() -> LoadedText:
            if self._load is not None:
                return self._load(settings)
            from cloud_worker.engine.load import try_models

            return try_models(settings)

        what, default = f"the target {settings.target}", settings.target == "default"
        self.target = await load_model(report, what, load, describe, default=default)

    async def _check_metrics(self, report: Report) -> None:
        host, port = self.config.metrics.metrics_host, self.config.metrics.metrics_port

        def ours() -> str:
            if port and _serves_figures(host, port):
                self.here = f"a worker serves its figures at {host}:{port} here"
            return self.here

        await check_port(report, host, port, "figures and probes", "--metrics-port", ours)

    async def _check_access(self, report: Report) -> None:
        """Try to publish where a worker does, and to read what it reads by sending it something ourselves."""
        watch, user = self.watch, self.settings.username
        gone = WorkerStatus(state="gone", epoch=0, at=0, worker=self.name)
        status = self._wire.status(gone) if watch.newest is None else watch.newest.payload
        if await self.may_publish(watch.topic, status) == NOT_AUTHORIZED:
            loss = "the worker could not tell its status, and would refuse to start"
            self.forbidden(report, f"publish on {watch.topic}", loss)
        if await self.may_publish(topics.verdict_topic(topics.NOBODY), b"") == NOT_AUTHORIZED:
            self.forbidden(report, "publish on f1/v/+", "no edge would get an answer")
        for topic in watch.blind:
            self.forbidden(report, f"read {topic}", "we cannot see who is there")
        # A name of its own, or else that of the MQTT user: with access rules one may write to one's own topics only.
        sender = user if user is not None else topics.NOBODY
        for topic in (topics.open_topic(self.version, sender), topics.draft_topic(self.name, sender)):
            if not await self._reaches_us(topic):
                what = f"read {topic.rpartition('/')[0]}/+"
                self.forbidden(report, what, "nothing from edges would arrive")
        if not report.failed:
            reads = f"f1/o/{self.version}/+ and f1/d/{self.name}/+"
            report.ok(f"may publish on {watch.topic} and f1/v/+, and read {reads}")

    async def _reaches_us(self, topic: str) -> bool:
        """Whether what is sent on a topic is delivered to us, or we may not send there."""
        try:
            await self.link.subscribe(topic)
        except LinkRefused:
            return False
        try:
            if await self.may_publish(topic, NOT_A_SESSION) != NOT_AUTHORIZED:
                async with asyncio.timeout(waiting.RETAINED):
                    await self.watch.next_of(topic)
        except TimeoutError:
            return False
        finally:
            with contextlib.suppress(LinkError):
                await self.link.unsubscribe(topic)
        return True

    def _check_tokenizers(self, report: Report) -> None:
        """Workers that share a version must share a tokenizer, or sessions could not move between them."""
        assert self.target is not None  # noqa: S101  this check needs it
        ours = self.target.fingerprint.hex()
        others = [
            status
            for status, _ in self.watch.workers()
            if (status.version, status.state != "gone") == (self.version, True)
            and status.worker != self.name
            and status.fingerprint
        ]
        odd = [
            f"{status.worker} ({status.fingerprint[:12]}…)" for status in others if status.fingerprint != ours
        ]
        if odd:
            detail = f"our target's tokenizer is {ours[:12]}…, and workers of the version {self.version!r} have another"
            advice = "one version is one model: give this target a --version of its own"
            report.fail("wrong tokenizer", f"{detail}: {', '.join(odd)}", advice)
            return
        with_us = f", as have {len(others)} other workers of it" if others else ""
        report.ok(f"version {self.version!r} has tokenizer {ours[:12]}…{with_us}")


def _serves_figures(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=waiting.ASK_API)
    try:
        connection.request("GET", "/metrics")
        return b"flexspec_worker:" in connection.getresponse().read(65_536)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
