"""Texts by any server that speaks OpenAI's chat completions: it tells no token ids, and verifies no drafts.

Such a text is a text of bytes, see ``flexspec_mq/models/byte_text/``. A streamed request writes each; where it broke
off, the next request goes on from what is committed, or writes the text anew and is compared with it: never is the end
of a text put behind the beginning of another.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from cloud_worker.engine.interface import Facts
from cloud_worker.engine.servers.client import MOST_SAID, ServerClient, ServerFailed, ServerGone
from cloud_worker.engine.servers.embeddings import embedded
from cloud_worker.engine.servers.engine import ServerEngine
from cloud_worker.engine.servers.requests import FetchedRequests
from flexspec_mq import topics, waiting
from flexspec_mq.daemon.retry import Backoff, retrying
from flexspec_mq.errors import ServerRefused, UsageError
from flexspec_mq.models.byte_text.ids import (
    BYTE_CONTEXT,
    ByteEnd,
    Channel,
    channels,
    encode_text,
    whole_characters,
)
from flexspec_mq.models.load import byte_text
from flexspec_mq.protocol.worker.types import ALL_ROWS, DraftRows
from schemas.served import (
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    MAX_REQUEST,
    ServedEmbed,
    ServedMessage,
    ServedRequest,
    ServedUsage,
    image_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cloud_worker.engine.grammars import TextGrammars
    from cloud_worker.engine.servers.budget import TokenBudget
    from cloud_worker.settings import WorkerSettings
    from flexspec_mq.protocol.worker.types import WorkItem

CREDIT = 8
"""Bytes of a text for each token of look-ahead that a device grants."""
_MOST_MODELS = 64
_SEED = 2**31
"""Seeds are below this: llama.cpp has 32 bits, of which the highest number is none."""
_UNNAMED = re.compile(r"[^A-Za-z0-9_.-]+")
_ENDS = {
    "stop": ByteEnd.STOP,
    "tool_calls": ByteEnd.STOP,
    "function_call": ByteEnd.STOP,
    "length": ByteEnd.LENGTH,
    "content_filter": ByteEnd.CONTENT_FILTER,
}
_GOES_ON = {"add_generation_prompt": False, "continue_final_message": True}
"""Fields by which a server goes on with the last message, as the device's own targets do."""
Kind = Literal["llama.cpp", "vLLM", "unknown"]


class _Model(msgspec.Struct):
    id: Annotated[str, Meta(max_length=4096)]
    owned_by: str = ""
    max_model_len: int | None = None
    meta: dict[str, Any] | None = None


class _Models(msgspec.Struct):
    data: Annotated[list[_Model], Meta(max_length=4096)]


class _Props(msgspec.Struct):
    total_slots: Annotated[int, Meta(ge=1, le=4096)] | None = None
    default_generation_settings: dict[str, Any] = {}
    modalities: dict[str, Any] | None = None


class _Tokens(msgspec.Struct):
    tokens: list[Any]


class _FunctionDelta(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallDelta(msgspec.Struct):
    index: int = 0
    function: _FunctionDelta | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[_CallDelta] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Annotated[int, Meta(ge=0, le=2**31)] = 0
    completion_tokens: Annotated[int, Meta(ge=0, le=2**31)] = 0


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_BYTES_OF_TOKEN = 4
"""Bytes of a prompt's token, about, where the server does not tell how many it read."""


class ChatServer(ServerClient):
    """A server of OpenAI's chat completions.

    Args:
        url: address, without a path.
        key: bearer token; None without one.
        headers: further headers of each request.
        wanted: names of its models that are asked for, with commas between; None takes all.

    Attributes:
        kind: kind of the server, as far as can be told.
        found: names of its models, by the versions that they are.
        budget: tokens that devices may have; None is no bound.
        requests: fetches requests that are too long for a message; None fetches none.
        reads_images: whether it reads images, as far as it tells.
    """

    def __init__(
        self, url: str, key: str | None, headers: Mapping[str, str], wanted: str | None = None
    ) -> None:
        super().__init__(url, key, headers)
        self._wanted = None if wanted is None else [name.strip() for name in wanted.split(",")]
        self.kind: Kind = "unknown"
        self.found: dict[str, str] = {}
        self.reads_images = True
        self.budget: TokenBudget | None = None
        self.requests: FetchedRequests | None = None
        self._seen = 0.0

    async def listed(self) -> list[_Model]:
        """Its models, those that are wanted.

        Raises:
            UsageError: it has none of them.
        """
        there = (await self.ask("/v1/models", _Models)).data
        chosen = [one for one in there if self._wanted is None or one.id in self._wanted][:_MOST_MODELS]
        if not chosen or (self._wanted is not None and len(chosen) < len(self._wanted)):
            names = ", ".join(one.id for one in there)[:MOST_SAID] or "no models"
            raise UsageError(
                f"{self.url} serves {names}", hint="name one of them, or several: --engine-model"
            )
        return chosen

    def spend(self, item: WorkItem, tokens: int) -> None:
        """Count tokens of a text's device.

        Raises:
            ServerRefused: these were the last ones that it had.
        """
        if self.budget is not None:
            self.budget.spend(item.key[0], item.version, tokens)

    async def models(self) -> None:
        """See whether it is there, with all models that it had.

        Raises:
            ServerRefused: it serves others now.
        """
        there = {one.id for one in (await self.ask("/v1/models", _Models)).data}
        if lost := sorted(set(self.found.values()) - there):
            raise ServerRefused(
                f"{self.url} does not serve {lost[0]} any more, but {', '.join(sorted(there))[:MOST_SAID]}"
            )
        self._seen = time.monotonic()

    async def look(self) -> None:
        """See whether it serves the same models as before, unless that was seen a moment ago."""
        if time.monotonic() - self._seen > waiting.RETRY_AWAITED:
            await self.models()

    async def props(self) -> _Props:
        """Properties that llama.cpp's server tells; nothing of another one."""
        try:
            return await self.ask("/props", _Props)
        except ServerRefused:
            return _Props()

    async def count(self, model: str, text: str) -> int:
        """Tokens of a text, by the server's own count."""
        body = {"content": text} if self.kind == "llama.cpp" else {"model": model, "prompt": text}
        return len((await self.ask("/tokenize", _Tokens, body)).tokens)

    @property
    def continues(self) -> bool:
        """Whether it goes on with the assistant's last message."""
        return self.kind != "unknown"

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[_Event]:
        """Events of an answer."""
        async with contextlib.aclosing(self.events(path, _Event, body)) as events:
            while True:
                async with self._patience():
                    event = await anext(events, None)
                if event is None:
                    return
                if event.error is not None:
                    raise ServerRefused(f"{self.url} broke a stream off: {str(event.error)[:MOST_SAID]}")
                yield event


class ChatText:
    """A session's text at a server.

    Args:
        server: the server.
        read: see `AskedText`.
    """

    def __init__(self, server: ChatServer, read: int = 0) -> None:
        self._server, self.read = server, read
        self._ids: list[int] = []
        self._agreed = 0
        self._more = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self._failed = False
        self._asked: ServedRequest | None = None
        self._holds = contextlib.AsyncExitStack()

    async def decide(
        self,
        item: WorkItem,
        model: str,
        grammars: TextGrammars | None,  # noqa: ARG002  the server reads its forms itself
    ) -> tuple[tuple[int, ...], DraftRows]:
        """All that the server has written behind an item's text, as far as there is room; at least one id.

        Raises:
            ServerGone: the server cannot be reached; asked again, the text goes on.
            ServerRefused: it will not write the text, or wrote another one than before.
        """
        committed = item.context[item.prompt_length :]
        if self._task is None or not self._agrees(committed):
            await self._stop()
            await self._begin(item, model, committed)
        while self._agrees(committed) and len(self._ids) <= len(committed):
            if self._error is not None:
                error = self._error
                await self._stop()
                raise error
            self._more.clear()
            await self._more.wait()
        if not self._agrees(committed):
            raise ServerRefused(
                "the server of models was lost in the middle of this text, and wrote another one when it was asked "
                "again with the same seed: nothing was put behind what you have"
            )
        new = self._ids[len(committed) : len(committed) + item.room + 1]
        whole = whole_characters(new) if len(self._ids) > len(committed) + len(new) else len(new)
        return tuple(new[: whole or len(new)]), ALL_ROWS

    def _agrees(self, committed: Sequence[int]) -> bool:
        """Whether what the server writes now begins as what is committed."""
        known = min(len(self._ids), len(committed))
        if known < self._agreed:
            self._agreed = 0
        same = [*self._ids[self._agreed : known]] == [*committed[self._agreed : known]]
        self._agreed = known if same else self._agreed
        return same

    async def _begin(self, item: WorkItem, model: str, committed: Sequence[int]) -> None:
        """Ask for the text, or for what is behind its committed beginning."""
        server = self._server
        if server.budget is not None:
            server.budget.check(item.key[0], item.version)
        if self._asked is None:
            self._asked = await self._read_request(item)
        asked = self._asked
        if asked.embed is not None:
            self._ids, self._agreed, self._error = [], 0, None
            self._task = asyncio.create_task(self._embed(asked.embed, model, committed, item))
            return
        body = body_of(asked, model, item.identity.sampling.seed)
        usage, ids = ServedUsage(), list[int]()
        if committed and (said := _continues(asked, committed)) is not None and server.continues:
            count = await server.count(model, said)
            ids, usage = [*committed], ServedUsage(completion_tokens=count, resumed="continued")
            if body.get("max_tokens", count + 1) <= count:
                self._ids, self._agreed, self._error = ids, 0, None
                Writer(ids).finish(usage, ByteEnd.LENGTH)
                return
            body = _continued(body, said, count) | {"seed": (body["seed"] + len(committed)) % _SEED}
        elif committed:
            usage = ServedUsage(resumed="rewritten")
        self._ids, self._agreed, self._error = ids, 0, None
        if server.continues and any(message.role == "assistant" for message in asked.messages[-1:]):
            body |= _GOES_ON
        path = "/v1/chat/completions" if asked.prompt is None else "/v1/completions"
        self._task = asyncio.create_task(self._read(path, body, usage, item))

    async def _read(self, path: str, body: Mapping[str, Any], before: ServedUsage, item: WorkItem) -> None:
        """Turn events into ids, until the end."""
        writer, used, ended, counted = Writer(self._ids), _Usage(), "", 0
        looked = asyncio.create_task(self._server.look())  # meanwhile: it takes a round trip
        try:
            async with contextlib.aclosing(self._server.stream(path, body)) as events:
                async for event in events:
                    await looked
                    counted += 1
                    self._server.spend(item, 1)
                    for choice in event.choices:
                        writer.take(choice)
                        ended = choice.finish_reason or ended
                    if len(self._ids) > BYTE_CONTEXT:
                        raise ServerRefused(  # noqa: TRY301  as whatever else the stream raises
                            f"{self._server.url} writes more than a text may have"
                        )
                    used = event.usage or used
                    self._more.set()
            figures = ServedUsage(
                prompt_tokens=max(0, used.prompt_tokens - before.completion_tokens),
                completion_tokens=used.completion_tokens + before.completion_tokens,
                resumed=before.resumed,
            )
            if ended in _ENDS:
                writer.finish(figures, _ENDS[ended])
            else:
                reason = repr(ended[:MOST_SAID]) if ended else "no reason"
                self._error = ServerRefused(f"{self._server.url} ended the text by {reason}")
        except Exception as error:  # noqa: BLE001  raised where more is waited for
            self._error = error
        finally:
            looked.cancel()
            if not used.prompt_tokens:  # it broke off, or the server does not tell
                used = _Usage(len(msgspec.json.encode(body)) // _BYTES_OF_TOKEN, counted)
            with contextlib.suppress(ServerRefused):
                self._server.spend(item, max(0, used.prompt_tokens + used.completion_tokens - counted))
            await asyncio.gather(looked, return_exceptions=True)
            self._more.set()

    async def _embed(self, asked: ServedEmbed, model: str, committed: Sequence[int], item: WorkItem) -> None:
        """Write the vectors of texts; behind others that an earlier worker began, in a line of their own."""
        server, most = self._server, item.identity.limit
        try:
            await server.look()
            try:
                line, used = await embedded(server, asked, model)
            except ServerFailed as error:
                if self._failed:  # it would fail at these texts for ever
                    raise ServerRefused(error.message) from error
                self._failed = True
                raise
            Writer(ids := [*line]).finish(ServedUsage(prompt_tokens=used), ByteEnd.STOP)
            if ids[: len(committed)] != [*committed]:
                ids = [*committed, Channel.CONTENT, *b"\n", *ids]
            if len(ids) > most:
                raise ServerRefused(  # noqa: TRY301  as whatever the server raises
                    f"the vectors of {len(asked.input)} texts have {len(ids)} bytes, and an answer here {most}: "
                    f"ask for {len(asked.input) * most // len(ids)} at once at most"
                )
            with contextlib.suppress(ServerRefused):
                server.spend(item, used or sum(map(len, asked.input)) // _BYTES_OF_TOKEN)
            self._ids = ids
        except Exception as error:  # noqa: BLE001  raised where more is waited for
            self._error = error
        finally:
            self._more.set()

    async def _read_request(self, item: WorkItem) -> ServedRequest:
        """The request of a text, fetched from its device where the prompt only names it.

        Raises:
            ServerRefused: it cannot be fetched, or is none that the server is asked for.
        """
        server = self._server
        asked = read_request(bytes(item.context[: item.prompt_length]))
        if asked.blob is not None and server.requests is not None:
            held = server.requests.held(item.key[0], asked.blob)
            asked = read_request(await self._holds.enter_async_context(held))
        if asked.blob is not None:
            raise ServerRefused("the device's request is only the name of another one")
        check_images(asked, reads=server.reads_images)
        return asked

    async def close(self) -> None:
        """Stop what the server writes, and let go of the request."""
        await self._stop()
        self._asked = None
        await self._holds.aclose()

    async def _stop(self) -> None:
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


class Writer:
    """Writes ids of a server's events."""

    def __init__(self, ids: list[int]) -> None:
        self._ids = ids
        self._channel: Channel = Channel.CONTENT
        self._call = -1

    def take(self, choice: _Choice) -> None:
        """Write what an event has."""
        delta = choice.delta or _Delta(content=choice.text)
        self._write(Channel.REASONING, delta.reasoning_content or delta.reasoning)
        self._write(Channel.CONTENT, delta.content)
        self._write(Channel.REFUSAL, delta.refusal)
        for call in delta.tool_calls or ():
            function = call.function or _FunctionDelta()
            if call.index != self._call:
                self._end_call()
                self._call = call.index
                self._turn(Channel.CALL)
                self._ids += encode_text(function.name or "")
                self._turn(Channel.ARGUMENTS)
            self._ids += encode_text(function.arguments or "")

    def _write(self, channel: Channel, text: str | None) -> None:
        if text:
            if self._channel is not channel:
                self._end_call()
                self._turn(channel)
            self._ids += encode_text(text)

    def _turn(self, channel: Channel) -> None:
        self._channel = channel
        self._ids.append(channel)

    def _end_call(self) -> None:
        if self._channel is Channel.ARGUMENTS:
            self._turn(Channel.CALLED)

    def finish(self, figures: ServedUsage, end: ByteEnd) -> None:
        """Write the end."""
        if end is ByteEnd.STOP:
            self._end_call()
        self._ids += [Channel.FIGURES, *msgspec.json.encode(figures), end]


def event_of(told: Mapping[str, Any]) -> _Event:
    """An event of a stream, from its JSON."""
    return msgspec.convert(told, _Event)


def read_request(prompt: bytes) -> ServedRequest:
    """Read the prompt of a text.

    Raises:
        ServerRefused: it is no request, or has what no server is asked for.
    """
    try:
        asked = msgspec.json.decode(prompt, type=ServedRequest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ServerRefused(f"the device's request cannot be read: {error!s:.200}") from error
    given = asked.prompt is not None, bool(asked.messages), asked.embed is not None, asked.blob is not None
    if given.count(True) != 1:
        raise ServerRefused("the device's request has not one of messages, prompt, embed and blob")
    return asked


def check_images(asked: ServedRequest, *, reads: bool) -> None:
    """See that a server takes the images of a request.

    Raises:
        ServerRefused: there are more than it takes, or it reads none.
    """
    parts = (
        part for message in asked.messages if isinstance(message.content, tuple) for part in message.content
    )
    sizes = [image_size(part.image_url.url) for part in parts if part.image_url is not None]
    if sizes and not reads:
        raise ServerRefused("the server of models reads no images")
    if len(sizes) > MAX_IMAGES or sum(sizes) > MAX_IMAGE_BYTES:
        raise ServerRefused(f"the request has {len(sizes)} images of {sum(sizes)} bytes, more than are taken")


def body_of(asked: ServedRequest, model: str, seed: int) -> dict[str, Any]:
    """The body for the server."""
    body: dict[str, Any] = msgspec.to_builtins(asked)
    if body.pop("ignore_eos", False):
        body["ignore_eos"] = True
    return body | {
        "model": model,
        "seed": seed % _SEED,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def _continues(asked: ServedRequest, committed: Sequence[int]) -> str | None:
    """Content that an assistant's message has so far; None where there is more than that, or half of a character."""
    parts = channels(committed)
    if asked.tools or asked.response_format or whole_characters(committed) < len(committed):
        return None
    goes_on = any(message.role == "assistant" for message in asked.messages[-1:])
    if goes_on or asked.prompt is not None or len(parts) != 1 or parts[0][0] is not Channel.CONTENT:
        return None
    return parts[0][1]


def _continued(body: dict[str, Any], said: str, count: int) -> dict[str, Any]:
    """The body that asks for the rest of a message."""
    last = msgspec.to_builtins(ServedMessage("assistant", said))
    more: dict[str, Any] = {"messages": [*body["messages"], last]}
    more |= _GOES_ON
    if "max_tokens" in body:
        more["max_tokens"] = body["max_tokens"] - count
    return body | more


def _shown(model: str) -> str:
    """A model's name for people, where it is the path of a file."""
    return model.rsplit("/", 1)[-1].removesuffix(".gguf")


def version_of(model: str) -> str:
    """A model's name as a version has it: without a folder or an ending, in characters of topics."""
    name = _UNNAMED.sub("-", _shown(model)).strip("-.")[:64]
    return topics.checked("version", name or "model")


async def connect_chat(
    server: ChatServer,
    settings: WorkerSettings,
    loop: asyncio.AbstractEventLoop,
    tell: Callable[[str], None],
    patience: float,
) -> ServerEngine:
    """Find out what a server is, and make an engine of it.

    Raises:
        UsageError: it serves nothing that is wanted.
        ServerGone, ServerRefused: it cannot be asked.
    """
    listed = await retrying(
        server.listed,
        what="the server of models",
        on=ServerGone,
        backoff=Backoff(top=waiting.RETRY_AWAITED, give_up_after=patience),
        on_wait=lambda wait: tell(str(wait)),
    )
    props = await server.props()
    if any(one.owned_by == "llamacpp" for one in listed):
        server.kind = "llama.cpp"
    elif any(one.owned_by == "vllm" for one in listed):
        server.kind = "vLLM"
    server.reads_images = props.modalities is None or props.modalities.get("vision") is True
    server.found = _versions(listed, settings.version)
    await server.models()
    names = ", ".join(server.found)
    context = props.default_generation_settings.get("n_ctx") or listed[0].max_model_len
    bound = (
        f"refuses what has more than {context} tokens"
        if context
        else "may cut what is too long for it in silence"
    )
    kind = "a server of models" if server.kind == "unknown" else server.kind
    after = "continued" if server.continues else "written again with the same seed, and compared"
    text = byte_text()
    facts = Facts(
        fingerprint=text.fingerprint,
        max_context=text.max_context,
        vocab_size=text.vocab_size,
        exactness="the server's",
        flip_rate=None,
        device=kind,
        dtype="",
        keeps=True,
        tokenizer=text.tokenizer_status,
        target=", ".join(_shown(one.id) for one in listed),
        proof=f"{kind} at {server.url} writes the texts of {names}, {props.total_slots or 'as many as come'} at a "
        f"time, and {bound}; nothing is verified, and a text that breaks off is {after}",
        writes=CREDIT,
        slots=props.total_slots,
        versions=tuple(server.found),
        request_bytes=MAX_REQUEST,
        image_bytes=MAX_IMAGE_BYTES if server.reads_images else 0,
    )
    server.requests = FetchedRequests()
    return ServerEngine(
        server,
        None,
        facts,
        text=lambda read: ChatText(server, read),
        model=lambda version, _head: server.found[version],
        grammars=None,
        loop=loop,
        requests=server.requests,
    )


def _versions(listed: Iterable[_Model], own: str) -> dict[str, str]:
    """Models by the versions that they are: each by its name, and the first as the worker's own version, too.

    The second of a name is known by that of its folder as well.
    """
    models = list(listed)
    found = {own: models[0].id}
    for one in models:
        short = version_of(one.id)
        found[version_of(one.id.replace("/", "-")) if short in found and short != own else short] = one.id
    return found
