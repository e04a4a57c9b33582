"""``flexspec-cloud doctor``: everything that a worker would need, tried, with the same settings."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
from typing import TYPE_CHECKING

from cloud_worker.wire import keys_of
from flexspec_mq import topics
from flexspec_mq.catalogue import naming
from flexspec_mq.doctor import exposure, machine, model, statuses
from flexspec_mq.doctor import link as links
from flexspec_mq.doctor.examination import examination
from flexspec_mq.doctor.family import Following, check_family
from flexspec_mq.doctor.threads import on_thread
from flexspec_mq.doctor.watching import LISTENING, Listening, Watch
from flexspec_mq.errors import LinkError, LinkRefused, ModelError, UsageError
from flexspec_mq.heads.manifest import HeadError
from flexspec_mq.models.default import CONVERTED_BYTES, default_model_folder
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import NOT_AUTHORIZED, Inbound
from schemas.status import WorkerStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from cloud_worker.settings import CloudConfig, FamilySettings, WorkerSettings
    from flexspec_mq.daemon.probes import MetricsOptions
    from flexspec_mq.doctor.findings import Finding, Findings
    from flexspec_mq.models.load import LoadedText
    from flexspec_mq.transport.base import Link, LinkSettings
    from schemas.catalogue import Catalogue

    Load = Callable[[WorkerSettings], LoadedText]

_BEHIND = ("login", "name", "access", exposure.NAME, "catalogue", "heads", "family", "clock", "qualities")
CHECKS = ("packages", "cache", "temp", "state", "model", "metrics", "broker", *_BEHIND)
"""In the order in which they are shown."""
_OF_A_FAMILY = ("state", "catalogue", "heads")
"""Those of a worker that follows a family."""
_NOBODY = "flexspec-doctor"
"""A version and an edge that nobody has: what is sent to them disturbs nobody."""


def load(settings: WorkerSettings) -> LoadedText:
    """Load the target and the draft as the worker does, without the proof that it then does.

    Raises:
        ModelError: one cannot be loaded, or not be packed.
        UsageError: the draft is not for the target.
    """
    from cloud_worker.engine import draft
    from cloud_worker.engine.target import candidate_of

    loaded, candidate, _ = candidate_of(settings, lambda _: None)
    candidate.build(None)
    draft.load(settings, loaded, lambda _: None)
    return loaded


async def examine(
    config: CloudConfig,
    tell: Callable[[str], None],
    timeout: float,
    *,
    load: Load = load,
    listening: Listening = LISTENING,
) -> list[Finding]:
    """Check everything; never raises for what is wrong with the setup.

    Args:
        config: as the daemon has it.
        tell: told what is checked now.
        timeout: seconds for all of it.
        load: loads the target.
        listening: for how long, to statuses.

    Raises:
        UsageError: the settings cannot be used: a file that cannot be read.
    """
    base = link_settings(config.link, f"w-{config.worker.worker}")
    keys_of(config.worker)
    useful = {"serve": "--metrics-port will not work"} if config.metrics.metrics_port is not None else {}
    follows = config.family.family is not None
    checks = tuple(name for name in CHECKS if follows or name not in _OF_A_FAMILY)
    async with examination("cloud", checks, tell, timeout) as findings:
        machine.check_packages(findings, ("models", "heads") if follows else ("models",), useful)
        machine.check_folders(findings, _cache_needs(config.worker))
        if follows:
            _check_state(findings, config.family)
        loading = asyncio.create_task(_target(findings, config.worker, load))
        try:
            here = await on_thread(lambda: check_metrics(findings, config.metrics))
            await _at_broker(findings, config, base, loading, here, listening)
            tell("loading the target")
            await loading
        finally:
            loading.cancel()
    return findings.all


def check_metrics(findings: Findings, options: MetricsOptions) -> str:
    """Whether figures could be served; the worker that does so already, in words, if it is one of ours. Blocks."""
    host, port = options.metrics_host, options.metrics_port
    if not port:
        findings.ok("metrics", "no port is asked for" if port is None else "the figures take any free port")
        return ""
    why = machine.port_complaint(host, port)
    if not why:
        findings.ok("metrics", f"{host}:{port} is free for figures and probes")
        return ""
    if why != "taken":
        detail = f"figures cannot be served at {host}:{port}: {why}"
        findings.fail("metrics", "port taken", detail, "give an address and a port that this user may have")
        return ""
    who = machine.who_listens(port)
    if _our_worker(host, port):
        found = f"a worker serves its figures at {host}:{port} here{f', {who}' if who else ''}"
        findings.ok("metrics", f"already running: {found}")
        return found
    by = f" by {who}" if who else ""
    detail = f"{host}:{port}, where figures are to be served, is taken{by}"
    findings.fail("metrics", "port taken", detail, "stop that, or give another: --metrics-port N")
    return ""


def _our_worker(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=3.0)
    try:
        connection.request("GET", "/metrics")
        return b"flexspec_worker_" in connection.getresponse().read(65_536)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


async def _at_broker(
    findings: Findings,
    config: CloudConfig,
    base: LinkSettings,
    loading: asyncio.Task[LoadedText | None],
    here: str,
    listening: Listening,
) -> None:
    heard = asyncio.Queue[str](1000)

    def note(inbound: Inbound) -> None:
        if not heard.full():
            heard.put_nowait(inbound.topic)

    watch = Watch(longer=listening.at_most, other=note)
    topic = topics.worker_status_topic(config.worker.worker)

    async def look(link: Link) -> str:
        findings.tell("listening for workers")
        await watch.until(lambda: bool(watch.fights(topic)), listening.at_least)
        catalogue = await _catalogue(findings, config, watch, link) if follows else None
        findings.tell("trying the access rules")
        await _check_access(findings, config, base.username, link, watch, heard)
        mine = config.worker
        files = (config.link.password_file, config.link.tls_key, mine.share_groups, mine.keys)
        await exposure.check_exposure(
            findings,
            link,
            base,
            files,
            public_group=mine.share_groups is None,
            keyed=mine.keys is not None,
        )
        known = watch.newest(topic)
        found = here or ("" if known is None else _process_here(base.port, known.status.epoch / 1000))
        statuses.check_clock(findings, watch, besides=topic if found else "")
        findings.tell("loading the target")
        target = await loading
        _check_family(findings, config.worker, watch, target)
        if catalogue is not None and target is not None:
            await _check_heads(findings, config, catalogue, target)
        elif follows:
            why = "the target cannot be loaded" if target is None else "no version of the family is known"
            findings.skip(["heads"], why)
        return found

    follows = config.family.family is not None
    behind = tuple(name for name in _BEHIND if follows or name not in _OF_A_FAMILY)
    await links.examine_broker(findings, base, behind, watch, topic, look)


def _check_state(findings: Findings, family: FamilySettings) -> None:
    try:
        folder = family.folder
    except UsageError as error:
        findings.fail("state", "settings", error.message, error.hint)
        return
    advice = "free some space there, or give another folder: --state-dir"
    machine.check_folder(findings, "state", folder, 0, advice)


async def _catalogue(findings: Findings, config: CloudConfig, watch: Watch, link: Link) -> Catalogue | None:
    following = Following(
        "catalogue",
        config.worker.worker,
        config.link.username,
        config.family,
        lambda: config.family.folder,
        "none of its versions would be served",
    )
    return await check_family(findings, following, watch, link, None)


async def _check_heads(
    findings: Findings, config: CloudConfig, catalogue: Catalogue, target: LoadedText
) -> None:
    """Whether the heads of the versions can be had, and are for this worker."""
    from cloud_worker.versions.family import base_of, unfit

    findings.tell("looking at the heads of all versions")
    try:
        base = await on_thread(lambda: base_of(config.worker, target, "exact"))
    except (UsageError, ModelError) as error:
        findings.fail("heads", "settings", error.message, error.hint)
        return
    bad = await on_thread(lambda: unfit(config.family, catalogue, base))
    where = config.family.heads or catalogue.heads
    if not bad:
        findings.ok(
            "heads",
            f"all versions of this worker's base have their manifests in {where}, and are for this worker",
        )
        return
    said = "; ".join(f"{one}: {why.message}" for one, why in bad.items())
    stable = naming.stable(catalogue).name
    if stable in bad:
        fault = "settings" if isinstance(bad[stable], (HeadError, UsageError)) else "model missing"
        findings.fail("heads", fault, said, bad[stable].hint or "see that heads can be fetched from here")
    else:
        hint = next(iter(bad.values())).hint
        findings.warn("heads", said, hint or "publish it again; the others are served")


async def _check_access(
    findings: Findings,
    config: CloudConfig,
    user: str | None,
    link: Link,
    watch: Watch,
    heard: asyncio.Queue[str],
) -> None:
    """Try to publish where a worker does, and to read what it reads by sending it something ourselves."""
    worker = config.worker.worker
    topic = topics.worker_status_topic(worker)
    known = watch.newest(topic)
    gone = WorkerStatus(state="gone", epoch=0, at=0, worker=worker)
    status = watch.codec.encode_status(gone) if known is None else known.payload
    answers = topics.verdict_topic(_NOBODY)
    for where, payload, loss in (
        (topic, status, "the worker could not tell its status, and would refuse to start"),
        (answers, b"", "no edge would get an answer"),
    ):
        if await links.may_publish(link, where, payload) == NOT_AUTHORIZED:
            what = f"publish on {where if where == topic else 'f1/v/+'}"
            links.forbidden(findings, worker, user, what, loss)
    for one in watch.blind:
        links.forbidden(findings, worker, user, f"read {one}", "we cannot see who is there")
    # A name of its own, or else that of the MQTT user: with access rules one may write to one's own topics only.
    sender = user if user is not None else _NOBODY
    for where, what in (
        (topics.open_topic(config.worker.version, sender), f"f1/o/{config.worker.version}/+"),
        (topics.draft_topic(worker, sender), f"f1/d/{worker}/+"),
    ):
        reached = await _reaches_us(link, where, heard)
        if reached is False:
            links.forbidden(findings, worker, user, f"read {what}", "nothing from edges would arrive")
    if not findings.failed("access"):
        reads = f"f1/o/{config.worker.version}/+ and f1/d/{worker}/+"
        findings.ok("access", f"may publish on {topic} and f1/v/+, and read {reads}")


async def _reaches_us(link: Link, topic: str, heard: asyncio.Queue[str]) -> bool | None:
    """Whether what is sent on a topic is delivered to us; None if we may not send there."""
    try:
        await link.subscribe(topic)
    except LinkRefused:
        return False
    try:
        if await links.may_publish(link, topic, links.NOT_A_SESSION) == NOT_AUTHORIZED:
            return None
        async with asyncio.timeout(2.0):
            while await heard.get() != topic:
                pass
    except TimeoutError:
        return False
    finally:
        with contextlib.suppress(LinkError):
            await link.unsubscribe(topic)
    return True


def _check_family(
    findings: Findings, settings: WorkerSettings, watch: Watch, target: LoadedText | None
) -> None:
    """Workers that share a version must share a tokenizer, or sessions could not move between them."""
    others = [
        status
        for seen in watch.workers()
        if isinstance(status := seen.status, WorkerStatus)
        and status.version == settings.version
        and status.worker != settings.worker
        and status.state != "gone"
        and status.fingerprint
    ]
    if target is None:
        findings.skip(["family"], "the target cannot be loaded")
        return
    odd = [status for status in others if status.fingerprint != target.fingerprint.hex()]
    if odd:
        names = ", ".join(f"{one.worker} ({one.fingerprint[:12]}…)" for one in odd)
        findings.fail(
            "family",
            "wrong tokenizer",
            f"our target's tokenizer is {target.fingerprint.hex()[:12]}…, and workers of the same version "
            f"{settings.version!r} have another: {names}",
            "one version is one model: give this target a --version of its own",
        )
        return
    with_us = f", as have {len(others)} other workers of it" if others else ""
    findings.ok(
        "family", f"version {settings.version!r} has tokenizer {target.fingerprint.hex()[:12]}…{with_us}"
    )


async def _target(findings: Findings, settings: WorkerSettings, load: Load) -> LoadedText | None:
    what = f"the target {settings.target}"
    if settings.target == "default" and model.unprepared_default(findings, what):
        return None
    return await model.loaded(
        findings,
        what,
        lambda: load(settings),
        lambda found: (
            f"target {found.name} on {settings.device}, {settings.dtype}; its proof runs at the start"
        ),
    )


def _process_here(port: int, epoch: float) -> str:
    names = ("cloud_worker", "flexspec-cloud")
    found = [number for number in machine.connected(port, *names) if machine.just_before(number, epoch)]
    return f"flexspec-cloud runs on this machine (process {', '.join(map(str, found))})" if found else ""


def _cache_needs(settings: WorkerSettings) -> int:
    """Bytes that the first start would still write to the cache."""
    if settings.target != "default":
        return 0
    try:
        return 0 if default_model_folder().is_dir() else CONVERTED_BYTES
    except ModelError:
        return 0
