"""The target, as a process: answers the guesses of one device over MQTT.

    python -m lab.traditional.target MS …arguments of flexspec-cloud…

Every forward takes MS milliseconds more. The target runs in the engine that a worker with these arguments would take.
When it listens it says so in a JSON line on standard output.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cloud_worker.__main__ import build_parser
from cloud_worker.engine.acceptance import decide
from cloud_worker.engine.target import Target, load
from cloud_worker.settings import from_arguments
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.main import run_main, spare_what_is_loaded
from flexspec_mq.models.invariance.target import TargetModel
from flexspec_mq.models.kv import SessionKV
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.choose import choose
from flexspec_mq.transport.arguments import link_settings
from flexspec_mq.transport.base import LinkSettings
from lab.traditional.channel import DOWN, UP, MessageChannel, mqtt_channel
from lab.traditional.messages import Guesses, Message, RoundVerdict, Start, decode, encode
from lab.traditional.speculation import distribution, probabilities, verify
from schemas.messages import Sampling


@dataclass(slots=True)
class _Text:
    start: Start
    params: Sampling
    context: list[int]
    kv: SessionKV
    rng: np.random.Generator
    verdict: RoundVerdict | None = None


class Verifier:
    """Verifier of a text at a time. Texts that were read for a client stay for its next one.

    Args:
        model: the target.
        vocab_size: width of its logits.
        prefill: prompt tokens that one forward reads.
        delay: seconds that each forward takes longer.
    """

    def __init__(self, model: TargetModel, *, vocab_size: int, prefill: int, delay: float = 0.0) -> None:
        self._model = model
        self._vocab_size = vocab_size
        self._prefill = prefill
        self._delay = delay
        self._kvs: dict[str, SessionKV] = {}
        self._text: _Text | None = None

    def take(self, message: Message) -> RoundVerdict | None:
        """Do what a message asks; a repeated one gets the same answer, one of an earlier round or text none."""
        if isinstance(message, Start):
            self._start(message)
            return None
        assert isinstance(message, Guesses)
        return self._decide(message)

    def _start(self, message: Start) -> None:
        if self._text is not None and self._text.start == message:
            return
        kv = self._kvs.setdefault(message.client, self._model.new_kv())
        rng = np.random.default_rng([message.sampling.seed, 1])  # another one than the device's
        self._text = _Text(message, message.sampling, [*message.prompt], kv, rng)
        known, prompt = kv.match(message.prompt[:-1]), message.prompt[:-1]
        for begin in range(known, len(prompt), self._prefill):
            self._forward(ModelInput(kv, prompt[begin : begin + self._prefill], 0))

    def _decide(self, message: Guesses) -> RoundVerdict | None:
        text = self._text
        assert text is not None
        if message.text < text.start.text:
            return None
        if text.verdict is not None and message.round == text.verdict.round:
            return text.verdict
        if text.verdict is not None and message.round < text.verdict.round:
            return None  # its verdict is known: a connection broke before this was acknowledged
        sent = message.distributions(self._vocab_size)
        known = text.kv.match(text.context[:-1])
        unread = [*text.context[known:], *message.tokens]
        logits = self._forward(ModelInput(text.kv, unread, len(message.tokens) + 1))
        eos = text.start.eos
        if text.params.temperature == 0.0 or not len(sent):
            at = len(text.context)
            chosen = (choose(row, text.params, at + place) for place, row in enumerate(logits))
            decided = decide(chosen, message.tokens, eos)
        else:
            q = [distribution(row) for row in sent]
            decided = verify(
                lambda place: probabilities(logits[place], text.params), q, message.tokens, eos, text.rng
            )
        text.context += decided
        text.verdict = RoundVerdict(message.text, message.round, decided)
        return text.verdict

    def _forward(self, one: ModelInput) -> npt.NDArray[np.float32]:
        logits = to_numpy(self._model.forward([one]))
        if self._delay:
            time.sleep(self._delay)
        return logits


async def answer(channel: MessageChannel, verifier: Verifier, compute: Executor) -> None:
    """Answer messages, for ever.

    Raises:
        LinkError: the connection is gone for good.
    """
    loop = asyncio.get_running_loop()

    def decided(payload: bytes) -> bytes | None:
        verdict = verifier.take(decode(payload))
        return None if verdict is None else encode(verdict)

    while True:
        found = await loop.run_in_executor(compute, decided, await channel.receive())
        if found is not None:
            channel.send(found)


async def serve(target: Target, verifier: Verifier, settings: LinkSettings) -> None:
    """Serve until the connection is gone; errors as of `answer`."""
    with ThreadPoolExecutor(1, "target") as compute:
        async with mqtt_channel(settings, out=DOWN, into=UP) as mqtt:
            spare_what_is_loaded()
            ready = {"ready": True, "vocabulary": target.loaded.tokenizer_status.vocabulary}
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()
            await answer(mqtt, verifier, compute)


def _main(argv: Sequence[str]) -> int:
    delay, *flags = argv
    config = from_arguments(build_parser().parse_args(flags)).settings
    logs.configure(config.log)
    settings = config.worker
    with logs.logged_stages() as tell:
        target = load(settings, tell)
    verifier = Verifier(
        target.model,
        vocab_size=target.loaded.vocab_size,
        prefill=settings.prefill,
        delay=float(delay) / 1000.0,
    )
    asyncio.run(serve(target, verifier, link_settings(config.link, f"t-{settings.worker}")))
    return 0


if __name__ == "__main__":
    sys.exit(run_main(_main))
