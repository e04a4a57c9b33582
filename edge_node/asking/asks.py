"""The link on which asks come, and their answers: each ask is a task, whose text is one of the API's store."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, structs

from edge_node.api.errors import ApiError
from edge_node.api.serving import Api
from edge_node.asking.clients import AskClient
from edge_node.asking.home_assistant import HOME_ASSISTANT, announcement
from edge_node.asking.request import AskReader, AskRequest, ReplyAddress, from_message
from edge_node.asking.settings import AskSettings
from edge_node.outbox.entries import Entry, OutboxError
from edge_node.text.machine import Text, TextDropped
from edge_node.text.reading import TextFollower, ended, read
from edge_node.text.spec import IdempotencyKey, UnknownRequest, unpack
from edge_node.text.texts import TooManyTexts, key_of
from flexspec_mq import entropy, topics, waiting
from flexspec_mq.daemon.expiring import ExpiringMap, LogThrottle
from flexspec_mq.daemon.tasks import ended as stopped
from flexspec_mq.daemon.tasks import running
from flexspec_mq.errors import FlexSpecError, LinkDown, LinkError, PublishRefused
from flexspec_mq.grammar.tools import CallEvent, Content
from flexspec_mq.transport.base import (
    NO_SUBSCRIBERS,
    Inbound,
    LinkDownEvent,
    LinkSettings,
    LinkUpEvent,
    Outbound,
    Subscription,
)
from flexspec_mq.transport.link import Link, LinkFactory
from schemas.asking import Answer, AnswerPiece, AskedStatus, AskUsage
from schemas.node import TextFigures

_MOST_USERS = 1024
"""Users that are remembered; of more, those that were idle for longest are forgotten."""
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Answering:
    """An ask that is being answered.

    Attributes:
        reply: where, as the newest copy of the ask says.
        resumed: whether it comes from the outbox.
        again: another copy has come, so that a stream begins anew.
        waits: id of its request in the outbox, while it waits for its turn.
    """

    key: IdempotencyKey | None
    reply: ReplyAddress
    resumed: bool = False
    again: bool = False
    waits: str = ""


class Asks:
    """Answers asks for as long as the node's API runs.

    Args:
        api: state that the API's paths share.
        settings: how much may be asked, and who is told of the node.
        connect: makes the link.
        link: where and as whom to connect.
        ephemeral: the node's name was drawn for this run, so nothing retained is left under it.
    """

    def __init__(
        self,
        api: Api,
        settings: AskSettings,
        connect: LinkFactory,
        link: LinkSettings,
        *,
        ephemeral: bool = False,
    ) -> None:
        self._api = api
        self._node = api.node
        self._settings = settings
        self._connect = connect
        self._status = topics.asked_topic(self._node.name)
        gone = b"" if ephemeral else msgspec.json.encode(AskedStatus(state="gone"))
        filters = [topics.ask_filter(self._node.name)]
        if settings.home_assistant is not None:
            filters.append(HOME_ASSISTANT)
        self._link_settings = replace(
            link,
            session_expiry=waiting.SESSION_EXPIRY,
            subscriptions=tuple(Subscription(name) for name in filters),
            will=Outbound(self._status, gone, 1, retain=True),
            birth=lambda: [self._status_message()],
            awaited=lambda: bool(self._tasks),
        )
        self._clients = ExpiringMap[str, AskClient](most=_MOST_USERS)
        self._answering: dict[str, _Answering] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._throttle = LogThrottle()
        self._announce_at = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        """Answer inside the block; what was being answered has a moment to say why it ends.

        Yields:
            The task that answers, which ends by what broke its link.
        """
        async with self._connect(self._link_settings) as link, running(self._run(link), "asks") as answers:
            try:
                yield answers
            finally:
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=waiting.FAREWELL)
                await stopped(self._tasks)

    async def _run(self, link: Link) -> None:
        pending = running(self._take_pending(link), "pending asks")
        async with pending, running(self._tell_status(link), "asked status"):
            async for event in link.events():
                if isinstance(event, Inbound):
                    self._take(link, event)
                elif isinstance(event, LinkUpEvent):
                    self._announce(link)
                elif isinstance(event, LinkDownEvent):
                    _log.info("asks: %s", event)

    def _take(self, link: Link, inbound: Inbound) -> None:
        if inbound.topic == HOME_ASSISTANT:
            if inbound.payload == b"online" and not inbound.retain:
                self._announce(link)
            return
        user = topics.client_of_ask(inbound.topic, self._node.name)
        if user is None or (inbound.retain and not inbound.payload):
            return
        now = entropy.now()
        client, refusal = self._client(user, now), None
        if len(self._tasks) >= self._settings.max_asks or not client.take(now):
            self._api.refusals.note(f"{user} by MQTT", "too_many_asks", "it asks more than it may")
            refusal = client.too_many(now)
            if refusal is None or len(self._tasks) >= 2 * self._settings.max_asks:
                return
        reader = AskReader(user, self._node.name)
        answer = self._answer(link, client, inbound, reader, refusal)
        self._start(client, user, self._guarded(link, lambda: reader.reply, answer))

    async def _take_pending(self, link: Link) -> None:
        """Answer asks that came before the node was started, and those that are sent again."""
        outbox = self._api.texts.outbox
        while True:
            name = await outbox.asked.get()
            try:
                entry = await outbox.run(outbox.journal.entry, name)
                if entry is not None and entry.body[:1] == b"{":
                    body = from_message(self._node.name, entry)
                    await outbox.run(outbox.journal.rewrite, name, body)
                    entry = replace(entry, body=body)
                if entry is not None:
                    self._take_again(link, entry)
            except (OutboxError, UnknownRequest) as error:  # those behind it are answered all the same
                _log.error("ask %s of the outbox is not answered: %s", name, error)
                if isinstance(error, UnknownRequest):
                    outbox.later(outbox.journal.park, name, error.message)

    def _take_again(self, link: Link, entry: Entry) -> None:
        """Answer an ask of the outbox, of an old one that it is; where an earlier incarnation said so, forget it."""
        asked, outbox = unpack(entry.body, AskRequest), self._api.texts.outbox
        refusal, age = None, self._api.settings.outbox_age
        if entry.state == "stale":
            outbox.later(outbox.journal.forget, entry.id)
            return
        if entry.is_old(outbox.journal.now(), age, self._api.settings.deliver):
            what = f"the node was away, and the ask waited for more than {age:g} s"
            refusal = ApiError(503, what, code="stale", hint="ask again, or send it from the node's outbox")
            outbox.later(outbox.journal.park, entry.id, what)
        client, key = self._client(asked.user, entropy.now()), key_of(entry)
        answering = _Answering(key, asked.reply, resumed=True)
        answer = self._answer_asked(link, client, asked.again(age), answering, refusal)
        self._start(client, asked.user, self._guarded(link, lambda: asked.reply, answer))

    def _client(self, user: str, now: float) -> AskClient:
        client = self._clients.pop(user) or AskClient(self._settings, now)
        self._clients.put(user, client, now)
        return client

    def _start(self, client: AskClient, user: str, answer: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(answer, name=f"ask of {user}")
        self._tasks.add(task)
        client.asks += 1
        task.add_done_callback(partial(self._answered, client))

    def _answered(self, client: AskClient, task: asyncio.Task[None]) -> None:
        client.asks -= 1
        self._tasks.discard(task)

    async def _guarded(
        self, link: Link, reply: Callable[[], ReplyAddress], answer: Coroutine[Any, Any, None]
    ) -> None:
        try:
            await answer
        except Exception:  # noqa: BLE001  the top of an ask's task; logged with its traceback
            _log.exception("an ask answered on %s failed", reply().topic)
            await self._publish(link, reply().error(FlexSpecError("the edge node failed; its log says how")))

    async def _answer(
        self, link: Link, client: AskClient, inbound: Inbound, reader: AskReader, refusal: ApiError | None
    ) -> None:
        """Answer an ask, or say why it is not answered."""
        try:
            asked = reader.read(inbound, most=self._settings.max_ask, lenient=self._api.settings.lenient)
            if asked is not None:
                await self._answer_asked(link, client, asked, _Answering(reader.key, asked.reply), refusal)
            else:
                client.forget(reader.reply.topic)
                await self._publish(link, Outbound(reader.reply.topic, b"", 1, retain=True))
        except ApiError as error:
            await self._publish(link, reader.reply.error(refusal or error))

    async def _answer_asked(
        self,
        link: Link,
        client: AskClient,
        asked: AskRequest,
        answering: _Answering,
        refusal: ApiError | None,
    ) -> None:
        """Answer an ask that was read, but for a copy of one that is being answered."""
        if (key := answering.key) is not None:
            present = self._answering.setdefault(key.key, answering)
            if present is not answering and present.key is not None and present.key.marks(key):
                present.again = True
                if not present.reply.keep:
                    present.reply = asked.reply
                return
        try:
            if refusal is not None:
                raise refusal
            if asked.keep:
                client.keep(asked.reply.topic, asked.keep, entropy.now())
                answering.reply = structs.replace(asked.reply, keep=asked.keep)
            await self._read(link, client, asked, answering)
        except FlexSpecError as error:
            texts = self._api.texts
            if key is None or not texts.goes_on_later:
                if answering.waits:
                    texts.outbox.later(texts.outbox.journal.forget, answering.waits)
                await self._publish(link, answering.reply.error(error))
        finally:
            if key is not None and self._answering.get(key.key) is answering:
                del self._answering[key.key]

    async def _read(self, link: Link, client: AskClient, asked: AskRequest, answering: _Answering) -> None:
        """Have the text written when it is its turn, or find it under its key, and send it."""
        api, outbox, key = self._api, self._api.texts.outbox, answering.key
        until = entropy.now() + asked.patience
        if asked.ignored:
            _log.warning("fields of an ask by MQTT were ignored: %s", ", ".join(asked.ignored))
        if not answering.resumed:
            timeout = api.settings.api_timeout if key is None else None  # else its patience is its bound
            spec = structs.replace(await api.resolved(asked.spec), timeout=timeout)
            asked = structs.replace(asked, spec=spec)
        if key is not None and asked.patience:
            answering.waits = await api.texts.persist(asked, key)
        async with client.text(asked.patience):
            while True:
                if answering.waits and await outbox.run(outbox.journal.entry, answering.waits) is None:
                    raise TextDropped("the ask was dropped from the outbox")
                try:
                    async with api.texts.reading(asked, key) as text:
                        answering.waits = ""
                        return await self._send(link, asked, answering, text)
                except TooManyTexts as full:
                    if entropy.now() + full.retry_after > until:
                        raise
                    await asyncio.sleep(full.retry_after)

    async def _send(self, link: Link, wanted: AskRequest, answering: _Answering, text: Text) -> None:
        while wanted.stream:
            answering.again = False
            await self._send_pieces(link, answering, text)
            if not answering.again:
                break
        end = await ended(text)
        if end.error is not None:
            raise end.error
        choice, keep = wanted.form([text]).choice(0, end), answering.reply.keep
        body = Answer(
            **answering.reply.named,
            text=UNSET
            if wanted.stream and not keep
            else choice.message.content or choice.message.refusal or "",
            tool_calls=choice.message.tool_calls,
            provisional=UNSET if choice.flexspec is UNSET else choice.flexspec.provisional,
            finish_reason=choice.finish_reason,
            ignored=list(wanted.ignored) or UNSET,
            usage=UNSET if end.figures is None else _usage(end.figures),
        )
        if not await self._publish(link, answering.reply.message(body)):
            raise LinkDown("the broker was away when the answer was there", hint="ask again")

    async def _send_pieces(self, link: Link, answering: _Answering, text: Text) -> None:
        """Send what is no call of a tool as it comes, from the beginning, until another copy of the ask has come."""
        follower, at = TextFollower(text), 0

        async def publish(events: Iterable[tuple[CallEvent, bool]], **more: Any) -> None:
            nonlocal at
            delta = "".join(event.text for event, _ in events if isinstance(event, Content))
            if delta or more:
                body = AnswerPiece(**answering.reply.named, at=at, delta=delta, **more)
                at += len(delta)
                await self._publish(link, answering.reply.message(body))

        async for part in read(text, self._api.settings.heartbeat):
            events, more = [*follower.push(part.text)], dict[str, Any]()
            if (change := follower.change(part.provisional)) is not None:
                more["provisional"] = change
            if part.waits is not None and (follower.begins_to_wait(part.waits) or not (part.text or more)):
                more["waiting"] = str(part.waits)
            await publish(events, **more)
            if answering.again:
                return
        if text.end is not None and text.complete:
            await publish(follower.finish(text.end))

    async def _publish(self, link: Link, message: Outbound) -> bool:
        """Hand a message to the broker, when the link is there again if it is not now; `_run` tells of its end.

        Returns:
            Whether the broker has had it.
        """
        patience = max(waiting.PATIENCE, message.expiry or 0.0)
        try:
            async with asyncio.timeout(patience):
                while True:
                    await link.wait_up()
                    try:
                        await link.send(message)
                    except LinkDown:  # or it would be up for as long as nobody reads of its end
                        await asyncio.sleep(waiting.RETRY[0])
                    else:
                        return True
        except PublishRefused as refused:
            due = self._throttle.due("", message.topic, entropy.now())
            if refused.reason_code != NO_SUBSCRIBERS and due:
                _log.log(logging.WARNING if message.payload else logging.INFO, "%s", refused)
            return True
        except TimeoutError:
            _log.warning("a message on %s is lost: the broker was away for %.0f s", message.topic, patience)
        except LinkError:
            pass
        return False

    async def _tell_status(self, link: Link) -> None:
        """Publish the status whenever it has changed."""
        told = self._status_message().payload
        while True:
            await asyncio.sleep(waiting.STATUS / 2)
            message = self._status_message()
            if message.payload != told and link.is_up:
                told = message.payload
                await self._publish(link, message)

    def _status_message(self) -> Outbound:
        node = self._node
        why = node.state.not_ready
        status = AskedStatus(
            state="online",
            edge=node.name,
            model=node.models.default,
            ready=not why,
            reason=why,
            connection=node.state.look(),
        )
        return Outbound(self._status, msgspec.json.encode(status), 1, retain=True)

    def _announce(self, link: Link) -> None:
        """Tell Home Assistant of the node, or that it is to forget it."""
        now = entropy.now()
        if now < self._announce_at:
            return
        self._announce_at = now + waiting.STATUS / 2
        message = announcement(self._node.name, self._settings.home_assistant, self._status)
        task = asyncio.create_task(self._publish(link, message), name="announce")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _usage(figures: TextFigures) -> AskUsage:
    return AskUsage(
        prompt_tokens=figures.prompt_tokens,
        completion_tokens=figures.tokens,
        total_tokens=figures.prompt_tokens + figures.tokens,
        version=figures.version,
        seed=figures.seed,
        resumed=figures.resumed or UNSET,
    )
