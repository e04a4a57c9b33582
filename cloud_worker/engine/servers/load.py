"""Reaching a server of models, and finding out what it is."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cloud_worker.engine.interface import Facts
from cloud_worker.engine.servers.budget import TokenBudget
from cloud_worker.engine.servers.chat import ChatServer, connect_chat
from cloud_worker.engine.servers.client import ServerGone
from cloud_worker.engine.servers.engine import ServerEngine
from cloud_worker.engine.servers.heads import ServerHeads
from cloud_worker.engine.servers.rule import chosen
from cloud_worker.engine.servers.server import GREEDY, Server
from cloud_worker.engine.servers.text import ServedText
from cloud_worker.engine.timing import Timings
from flexspec_mq import waiting
from flexspec_mq.daemon.retry import Backoff, retrying
from flexspec_mq.errors import LinkDown, ServerRefused, UsageError
from flexspec_mq.grammar.reader import engine_name
from flexspec_mq.models.cache import cache_folder
from flexspec_mq.models.load import load_text, recommended
from flexspec_mq.models.target_text import told_text
from flexspec_mq.settings.values import is_loopback, read_api_key
from schemas.messages import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cloud_worker.settings import WorkerSettings
    from flexspec_mq.models.load import LoadedText

_log = logging.getLogger(__name__)

_MOST = (256, 128, 64, 40, 20, 10, 5, 1)
"""Likeliest tokens of a row that are asked for, until the server grants one."""
_PROBE = "<|im_end|>\nThe fox says: »Grüße, 世界!« 0123456789\n"
"""A text that different tokenizers read differently."""
_TIMED_TOKENS, _TIMED_ROWS, _TIMES = 16, 4, 5
_FEWEST_TO_TELL = 10
"""Likeliest tokens of a row by which a server's noise can be told from others."""
_TRIED_SEED = 2**64 - 5
"""Seed whose signed form is negative."""


def connect(
    settings: WorkerSettings, tell: Callable[[str], None], patience: float = waiting.QUEUED
) -> ServerEngine:
    """Reach the server that the settings name, wait until it is up, and make an engine of it.

    Raises:
        UsageError: the settings do not go together, or the server is not of this target.
        ModelError: the target's tokenizer cannot be loaded.
        LinkDown: the server cannot be reached.
    """
    url = settings.engine_url or ""
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UsageError(f"{url!r} is no address of a server", hint="for example http://127.0.0.1:8000")
    key, headers = read_api_key(None, settings.engine_key_file), _headers(settings.engine_header)
    if address.scheme == "http" and not is_loopback(address.hostname):
        if settings.engine == "openai" and (key or headers):
            raise UsageError(
                f"a key would travel unencrypted to {address.netloc}",
                hint="use https, or a server on this machine",
            )
        _log.warning(
            "prompts and texts travel unencrypted to %s: use https, or a network of your own", address.netloc
        )
    loop = asyncio.new_event_loop()
    server: Server | ChatServer
    if settings.engine == "openai":
        server = ChatServer(url, key, headers, settings.engine_model)
        if settings.tokens_per_day is not None:
            server.budget = TokenBudget(settings.tokens_per_day, cache_folder("tokens") / settings.worker)
        found = connect_chat(server, settings, loop, tell, patience)
    else:
        loaded = load_text(settings.target, progress=tell)
        server = Server(url, loaded.vocab_size, key, settings.engine_model)
        found = _connect(server, loaded, loop, tell, patience)
    threading.Thread(target=_run, args=(loop,), name="server", daemon=True).start()

    try:
        return asyncio.run_coroutine_threadsafe(found, loop).result()
    except BaseException as error:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(waiting.FAREWELL)
        loop.call_soon_threadsafe(loop.stop)
        if not isinstance(error, ServerGone | ServerRefused):
            raise
        kind = LinkDown if isinstance(error, ServerGone) else UsageError
        raise kind(error.message, hint="is it up, and started as docs/gpu.md says?") from error


def _headers(stated: Path | None) -> dict[str, str]:
    """Headers of a file, each on a line of its own: ``Name: value``.

    Raises:
        UsageError: the file cannot be read, or has another line.
    """
    if stated is None:
        return {}
    try:
        lines = stated.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{stated} cannot be read: {error}") from error
    pairs = [line.partition(":") for line in lines if line.strip()]
    if any(not (colon and name.strip() and value.strip()) for name, colon, value in pairs):
        raise UsageError(f"{stated} has a line that is no header", hint="for example: X-Api-Version: 2")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


async def _connect(
    server: Server,
    loaded: LoadedText,
    loop: asyncio.AbstractEventLoop,
    tell: Callable[[str], None],
    patience: float,
) -> ServerEngine:
    model, longest = await retrying(
        server.models,
        what="the server of models",
        on=ServerGone,
        backoff=Backoff(top=waiting.RETRY_AWAITED, give_up_after=patience),
        on_wait=lambda wait: tell(str(wait)),
    )
    ours = loaded.tokenizer.encode(_PROBE, add_special_tokens=False)
    theirs = await server.tokenize(model, _PROBE)
    if theirs != ours:
        raise UsageError(
            f"the server's tokenizer is not that of {loaded.name}: {theirs[:8]} for {ours[:8]}",
            hint="--target names the folder of the model that the server runs",
        )
    longest = min(longest, loaded.max_context)
    most = await _most(server, model, ours)
    tell("timing the server")
    timings = await _timed(server, model, ours * 3)
    server.our_noise = await _has_our_noise(server, model, ours, most)
    way = "by our rule" + (
        "" if server.our_noise else f" where {most} tokens tell it, else by the server's own noise"
    )
    grammars = loaded.grammars()
    facts = Facts(
        fingerprint=loaded.fingerprint,
        max_context=longest,
        vocab_size=loaded.vocab_size,
        exactness="exact up to ties",
        flip_rate=None,
        device="vllm",
        dtype="",
        keeps=True,
        recommended=recommended(loaded.generation),
        **told_text(loaded)._asdict(),
        timings=timings,
        target=model,
        proof=f"{model} at {server.url}: exact up to ties; {timings.forward:.0f} ms a token of a stream, "
        f"{timings.forwards[1][2]:.0f} ms to verify {_TIMED_ROWS}; above temperature 0 {way}",
        grammar="" if grammars is None else engine_name(),
        penalties=False,
    )
    heads = ServerHeads(server, model, loaded, loop)
    return ServerEngine(
        server,
        heads,
        facts,
        text=lambda read: ServedText(server, most, read),
        model=lambda _version, head: heads.names[head],
        grammars=grammars,
        loop=loop,
    )


async def _most(server: Server, model: str, text: list[int]) -> int:
    """Likeliest tokens of a row that the server tells at most."""
    for most in _MOST:
        try:
            await server.rows(model, text, most=most)
        except ServerRefused:
            if most == _MOST[-1]:
                raise
        else:
            return most
    raise AssertionError


async def _has_our_noise(server: Server, model: str, text: list[int], most: int) -> bool:
    """Whether its noise is ours; another would look like it once in a million times at most."""
    if most < _FEWEST_TO_TELL:
        return False
    # Rows of more tokens than top-k leaves, so that most of those are told which tie with the last that it leaves.
    params = Sampling(2.0, most // 2, 1.0, _TRIED_SEED)
    alike, position = 0, len(text)
    async for row in server.stream(model, text, most, params, _TIMED_TOKENS, ()):
        alike += row.token == chosen(row, params, position)
        position += 1
    return alike >= _TIMED_TOKENS - 1


async def _timed(server: Server, model: str, text: list[int]) -> Timings:
    """Time a token of a stream, and a verification: medians of both, whose ratio holds on a busy machine too."""
    stream = server.stream(model, text, 0, GREEDY, _TIMED_TOKENS, ())
    written = [(row.token, time.perf_counter()) async for row in stream]
    if len(written) < 2:
        raise ServerRefused(f"{server.url} wrote one token of {_TIMED_TOKENS}")
    token = 1000 * median(later - earlier for (_, earlier), (_, later) in pairwise(written))
    draft = [token for token, _ in written[:_TIMED_ROWS]]
    spent = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        await server.rows(model, text, draft)
        spent.append(1000 * (time.perf_counter() - began))
    return Timings(forwards=((1, 0, token), (1, _TIMED_ROWS, median(spent))))
