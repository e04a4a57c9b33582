"""``flexspec-cloud doctor``: everything that a worker would need, tried, with the same settings."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from typing import TYPE_CHECKING

from cloud_worker.wire import keys_of
from flexspec_mq import topics
from flexspec_mq.catalogue import naming
from flexspec_mq.doctor import statuses
from flexspec_mq.doctor.checks import Check, on_thread
from flexspec_mq.doctor.daemon import LOGIN, MODEL, NOBODY, NOT_A_SESSION, DaemonDoctor
from flexspec_mq.doctor.family import check_family
from flexspec_mq.doctor.machine import check_folder, check_port, load_model
from flexspec_mq.doctor.processes import connected
from flexspec_mq.doctor.watch import Listening
from flexspec_mq.errors import LinkError, LinkRefused, ModelError, UsageError
from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.default import CONVERTED_BYTES, default_model_folder
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import NOT_AUTHORIZED, Inbound
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cloud_worker.settings import CloudConfig, WorkerSettings
    from flexspec_mq.doctor.checks import Report
    from flexspec_mq.models.load import LoadedText
    from schemas.catalogue import Catalogue

    Load = Callable[[WorkerSettings], LoadedText]

_NO_TARGET, _NO_VERSION = "the target cannot be loaded", "no version of the family is known"


class WorkerDoctor(DaemonDoctor):
    """The doctor of a worker.

    Attributes:
        figures: Description of the worker that serves figures at this one's port; empty if none does.
        target: The target, once it is loaded.

    Raises:
        UsageError: the settings cannot be used: a file that cannot be read.
    """

    def __init__(
        self, config: CloudConfig, load: Load | None = None, listening: Listening | None = None
    ) -> None:
        name = config.worker.worker
        settings = link_settings(config.link, f"w-{name}")
        keys_of(config.worker)
        super().__init__("cloud", name, settings, topics.worker_status_topic(name), listening or Listening())
        self.config = config
        self.figures = ""
        self.target: LoadedText | None = None
        self._load = load
        self._catalogue: Catalogue | None = None
        self._heard = asyncio.Queue[str](1000)
        self.watch.other = self._note
        link, worker = config.link, config.worker
        self.keys, self.secrets = worker.keys, (link.password_file, link.tls_key, worker.share_groups)
        self.public_group = worker.share_groups is None

    def table(self) -> Sequence[Check]:
        """The checks of a worker; three of them are for those that follow a family."""
        follows = self.config.family.family is not None
        useful = {} if self.config.metrics.metrics_port is None else {"serve": "--metrics-port will not work"}
        extras = ("models", "heads") if follows else ("models",)
        table = (
            *self.machine_rows(extras, useful, _cache_needs(self.config.worker)),
            Check("state", self._check_state),
            Check(MODEL, self._load_target, (), _NO_TARGET, "loading the target", turn=1, background=True),
            Check("metrics", self._check_metrics),
            *self.broker_rows(),
            Check("catalogue", self._check_catalogue, (LOGIN,), _NO_VERSION),
            Check("access", self._check_access, (LOGIN,), doing="trying the access rules"),
            Check("exposure", self.check_exposure, (LOGIN,)),
            Check("heads", self._check_heads, (MODEL, "catalogue"), doing="looking at the heads", turn=2),
            Check("family", self._check_tokenizers, (MODEL, LOGIN), turn=2),
            Check("clock", self._check_clock, (LOGIN,)),
            self.quality_row(),
        )
        return [check for check in table if follows or check.name not in ("state", "catalogue", "heads")]

    async def _load_target(self, report: Report) -> None:
        settings = self.config.worker

        def describe(loaded: LoadedText) -> str:
            return f"target {loaded.name} on {settings.device}, {settings.dtype}; its proof runs at the start"

        def load() -> LoadedText:
            if self._load is not None:
                return self._load(settings)
            from cloud_worker.engine.load import try_models

            return try_models(settings)

        what, default = f"the target {settings.target}", settings.target == "default"
        self.target = await load_model(report, what, load, describe, default=default)

    def _check_state(self, report: Report) -> None:
        try:
            folder = self.config.family.folder
        except UsageError as error:
            report.fail("settings", error.message, error.hint)
            return
        check_folder(report, folder, 0, "free some space there, or give another folder: --state-dir")

    async def _check_metrics(self, report: Report) -> None:
        host, port = self.config.metrics.metrics_host, self.config.metrics.metrics_port

        def ours() -> str:
            if port and _serves_figures(host, port):
                self.figures = f"a worker serves its figures at {host}:{port} here"
            return self.figures

        await check_port(report, host, port, "figures and probes", "--metrics-port", ours)

    def look_here(self) -> str:
        """Describe the worker of this machine that may be the one that the broker knows. Blocks."""
        found = connected(self.settings.port, ("cloud_worker", "flexspec-cloud"), self.watch.born)
        process = (
            f"flexspec-cloud runs on this machine (process {', '.join(map(str, found))})" if found else ""
        )
        return self.figures or process

    async def _check_catalogue(self, report: Report) -> None:
        family = self.config.family
        loss = "none of its versions would be served"
        self._catalogue = await check_family(report, self, family, lambda: family.folder, loss)

    async def _check_heads(self, report: Report) -> None:
        """Check whether the heads of the versions can be had, and are for this worker."""
        from cloud_worker.versions.family import base_of, unfit

        catalogue, target, family = self._catalogue, self.target, self.config.family
        assert catalogue is not None  # noqa: S101  this check needs it
        assert target is not None  # noqa: S101  likewise
        try:
            base = await on_thread(lambda: base_of(self.config.worker, target, "exact"))
        except (UsageError, ModelError) as error:
            report.fail("settings", error.message, error.hint)
            return
        bad = await on_thread(lambda: unfit(family, catalogue, base))
        if not bad:
            where = family.heads or catalogue.heads
            report.ok(
                f"all versions of this worker's base have their manifests in {where}, and are for this worker"
            )
            return
        detail = "; ".join(f"{version}: {error.message}" for version, error in bad.items())
        if (why := bad.get(naming.stable(catalogue).name)) is not None:
            fault = "settings" if isinstance(why, (HeadError, UsageError)) else "model missing"
            report.fail(fault, detail, why.hint or "see that heads can be fetched from here")
        else:
            hint = next(iter(bad.values())).hint
            report.warn(detail, hint or "publish it again; the others are served")

    async def _check_access(self, report: Report) -> None:
        """Try to publish where a worker does, and to read what it reads by sending it something ourselves."""
        watch, version, user = self.watch, self.config.worker.version, self.settings.username
        gone = WorkerStatus(state="gone", epoch=0, at=0, worker=self.name)
        status = watch.codec.encode_status(gone) if watch.newest is None else watch.newest.payload
        if await self.may_publish(watch.topic, status) == NOT_AUTHORIZED:
            loss = "the worker could not tell its status, and would refuse to start"
            self.forbidden(report, f"publish on {watch.topic}", loss)
        if await self.may_publish(topics.verdict_topic(NOBODY), b"") == NOT_AUTHORIZED:
            self.forbidden(report, "publish on f1/v/+", "no edge would get an answer")
        for topic in watch.blind:
            self.forbidden(report, f"read {topic}", "we cannot see who is there")
        # A name of its own, or else that of the MQTT user: with access rules one may write to one's own topics only.
        sender = user if user is not None else NOBODY
        for topic in (topics.open_topic(version, sender), topics.draft_topic(self.name, sender)):
            if not await self._reaches_us(topic):
                what = f"read {topic.rpartition('/')[0]}/+"
                self.forbidden(report, what, "nothing from edges would arrive")
        if not report.failed:
            reads = f"f1/o/{version}/+ and f1/d/{self.name}/+"
            report.ok(f"may publish on {watch.topic} and f1/v/+, and read {reads}")

    def _note(self, inbound: Inbound) -> None:
        if not self._heard.full():
            self._heard.put_nowait(inbound.topic)

    async def _reaches_us(self, topic: str) -> bool:
        """Whether what is sent on a topic is delivered to us, or we may not send there."""
        try:
            await self.link.subscribe(topic)
        except LinkRefused:
            return False
        try:
            if await self.may_publish(topic, NOT_A_SESSION) != NOT_AUTHORIZED:
                async with asyncio.timeout(2.0):
                    while await self._heard.get() != topic:
                        pass
        except TimeoutError:
            return False
        finally:
            with contextlib.suppress(LinkError):
                await self.link.unsubscribe(topic)
        return True

    def _check_tokenizers(self, report: Report) -> None:
        """Workers that share a version must share a tokenizer, or sessions could not move between them."""
        assert self.target is not None  # noqa: S101  this check needs it
        version, ours = self.config.worker.version, self.target.fingerprint.hex()
        others = [
            status
            for status, _ in self.watch.workers()
            if (status.version, status.state != "gone") == (version, True)
            and status.worker != self.name
            and status.fingerprint
        ]
        odd = [f"{one.worker} ({one.fingerprint[:12]}…)" for one in others if one.fingerprint != ours]
        if odd:
            detail = f"our target's tokenizer is {ours[:12]}…, and workers of the same version {version!r} have another"
            advice = "one version is one model: give this target a --version of its own"
            report.fail("wrong tokenizer", f"{detail}: {', '.join(odd)}", advice)
            return
        with_us = f", as have {len(others)} other workers of it" if others else ""
        report.ok(f"version {version!r} has tokenizer {ours[:12]}…{with_us}")

    def _check_clock(self, report: Report) -> None:
        statuses.check_clock(report, self.watch, besides=self.name if self.here else "")


def _serves_figures(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=3.0)
    try:
        connection.request("GET", "/metrics")
        return b"flexspec_worker_" in connection.getresponse().read(65_536)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _cache_needs(settings: WorkerSettings) -> int:
    """Bytes that the first start would still write to the cache."""
    try:
        prepared = settings.target != "default" or default_model_folder().is_dir()
    except ModelError:
        return 0
    return 0 if prepared else CONVERTED_BYTES
