"""``flexspec-cloud doctor``: everything that a worker would need, tried, with the same settings."""

from __future__ import annotations

import http.client
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from cloud_worker.settings import SERVERS
from cloud_worker.wire import WorkerWire
from flexspec_mq import topics, waiting
from flexspec_mq.doctor import checks
from flexspec_mq.doctor.broker import Forbidden
from flexspec_mq.doctor.checks import Fault, Said
from flexspec_mq.doctor.daemon import NOT_A_SESSION, DaemonDoctor
from flexspec_mq.doctor.machine import check_packages, check_port, load_model
from flexspec_mq.models.pairs.prepare import with_pair
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import NOT_AUTHORIZED
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from cloud_worker.settings import CloudConfig, WorkerSettings
    from flexspec_mq.models.load import LoadedText

    Load = Callable[[WorkerSettings], LoadedText]


class WorkerDoctor(DaemonDoctor):
    """The doctor of a worker.

    Raises:
        UsageError: the settings cannot be used: a file that cannot be read.
    """

    program = "cloud"
    _target: LoadedText

    def __init__(
        self,
        config: CloudConfig,
        load: Load | None = None,
        listening: float = waiting.STATUS + waiting.ANSWER,
    ) -> None:
        link, worker = config.link, config.worker
        settings = link_settings(link, f"w-{worker.worker}")
        self._wire = WorkerWire(worker, 0)
        topic = topics.worker_status_topic(worker.worker)
        super().__init__(worker.worker, settings, topic, worker.version, config.family, listening)
        self._config = config
        self._load = load
        self.keys, self.secrets = worker.keys, (link.password_file, link.tls_key, worker.share_groups)
        if (keys := self._wire.keys) is not None:
            self.trust = keys.trust
        self.public_group = worker.share_groups is None

    def probes(self) -> dict[str, checks.Probe]:
        """Probes of a worker, by the names of their checks."""
        metrics, worker = self._config.metrics, self._config.worker
        useful = {} if metrics.metrics_port is None else {"serve": "--metrics-port will not work"}
        models = "servers" if worker.engine in SERVERS else "models"
        extras = (models, "heads") if self.family.family else (models,)
        return super().probes() | {
            "packages": partial(check_packages, extras, useful),
            "metrics": self._check_metrics,
            "model": self._load_target,
            "access": self._check_access,
            "tokenizer": self._check_tokenizers,
        }

    async def _load_target(self) -> str:
        settings = self._config.worker

        def load() -> LoadedText:
            if self._load is not None:
                return self._load(settings)
            from cloud_worker.engine.load import try_models

            return try_models(with_pair(settings, "target", None))

        what = f"the target {settings.target}" if settings.pair is None else f"the target of {settings.pair}"
        default = settings.target == "default" and settings.pair in (None, "default")
        self._target = await load_model(what, load, default=default)
        if settings.engine == "openai":
            return self._target.name
        if settings.engine_url is not None:
            return f"target {self._target.name} at {settings.engine_url}, with the same tokenizer"
        return (
            f"target {self._target.name} on {settings.device}, {settings.dtype}; its proof runs at the start"
        )

    async def _check_metrics(self) -> str:
        host, port = self._config.metrics.metrics_host, self._config.metrics.metrics_port

        def ours() -> str:
            if port and _serves_figures(host, port):
                self.here = f"a worker serves its figures at {host}:{port} here"
            return self.here

        return await check_port(host, port, "figures and probes", "--metrics-port", ours)

    async def _check_access(self) -> list[Said]:
        """Try to publish where a worker does, and to read what it reads by sending it something ourselves."""
        watch, user = self.watch, self.settings.username
        gone = WorkerStatus(state="gone", epoch=0, at=0, worker=self.name)
        status = self._wire.status(gone) if watch.newest is None else watch.newest.payload
        found: list[Said] = []
        if await self.may_publish(watch.topic, status) == NOT_AUTHORIZED:
            loss = "the worker could not tell its status, and would refuse to start"
            found.append(self.forbidden(f"publish on {watch.topic}", loss))
        if await self.may_publish(topics.verdict_topic(topics.NOBODY), b"") == NOT_AUTHORIZED:
            found.append(self.forbidden("publish on f1/v/+", "no edge would get an answer"))
        found += self.blind()
        # A name of its own, or else that of the MQTT user: with access rules one may write to one's own topics only.
        sender = user if user is not None else topics.NOBODY
        for topic in (topics.open_topic(self.version, sender), topics.draft_topic(self.name, sender)):
            if not await self._reaches_us(topic):
                what = f"read {topic.rpartition('/')[0]}/+"
                found.append(self.forbidden(what, "nothing from edges would arrive"))
        reads = f"f1/o/{self.version}/+ and f1/d/{self.name}/+"
        return found or [f"may publish on {watch.topic} and f1/v/+, and read {reads}"]

    async def _reaches_us(self, topic: str) -> bool:
        """Whether what is sent on a topic is delivered to us, or we may not send there."""
        try:
            await self.link.listen(topic)
        except Forbidden:
            return False
        try:
            if await self.may_publish(topic, NOT_A_SESSION) == NOT_AUTHORIZED:
                return True
            return await self.link.next(topic, within=waiting.RETAINED) is not None
        finally:
            await self.link.unsubscribe_from(topic)

    def _check_tokenizers(self) -> str:
        """Workers that share a version must share a tokenizer, or sessions could not move between them."""
        ours = self._target.fingerprint.hex()
        others = [
            status
            for status, _ in self.watch.workers()
            if (status.version, status.state != "gone") == (self.version, True)
            and status.worker != self.name
            and status.fingerprint
        ]
        odd = [f"{each.worker} ({each.fingerprint[:12]}…)" for each in others if each.fingerprint != ours]
        if odd:
            detail = f"our target's tokenizer is {ours[:12]}…, and workers of the version {self.version!r} have another"
            advice = "one version is one model: give this target a --version of its own"
            raise Fault("wrong tokenizer", f"{detail}: {', '.join(odd)}", advice)
        with_us = f", as have {len(others)} other workers of it" if others else ""
        return f"version {self.version!r} has tokenizer {ours[:12]}…{with_us}"


def _serves_figures(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=waiting.CONNECT)
    try:
        connection.request("GET", "/metrics")
        return b"flexspec_worker:" in connection.getresponse().read(65_536)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
