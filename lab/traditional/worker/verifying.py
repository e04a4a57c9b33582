"""The target: reads the guesses of a round in one forward and decides."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

from cloud_worker.engine.acceptance import decide
from flexspec_mq.errors import RemoteProtocolError
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.params import SamplingParams
from lab.bench.traditional.messages import Guesses, Message, Start, Verdict, sent_with
from lab.bench.traditional.rejection import probabilities, verify

if TYPE_CHECKING:
    import numpy.typing as npt

    from flexspec_mq.models.kv import SessionKV
    from flexspec_mq.models.runner import ModelRunner
    from lab.bench.traditional.rejection import Floats


@dataclass(slots=True)
class _Text:
    start: Start
    params: SamplingParams
    context: list[int]
    kv: SessionKV
    rng: np.random.Generator
    verdict: Verdict | None = None


class Verifier:
    """One text at a time. What was read for a client stays for its next text.

    Args:
        model: the target.
        vocab_size: width of its logits.
        prefill: prompt tokens that one forward reads.
        delay: seconds that each forward takes longer.

    Attributes:
        forwards: that were done so far, of prompts and of guesses.
    """

    def __init__(self, model: ModelRunner, *, vocab_size: int, prefill: int, delay: float = 0.0) -> None:
        self.forwards = 0
        self._model = model
        self._vocab_size = vocab_size
        self._prefill = prefill
        self._delay = delay
        self._kvs: dict[str, SessionKV] = {}
        self._text: _Text | None = None

    def take(self, message: Message) -> Verdict | None:
        """Do what a message asks; a repeated one gets the same answer, one of an earlier round or text none.

        Raises:
            RemoteProtocolError: it belongs to no text that is here, or its probabilities not to this target.
            UsageError: no text can be sampled like this.
        """
        match message:
            case Start():
                self._start(message)
                return None
            case Guesses():
                return self._decide(message)
            case Verdict():
                raise RemoteProtocolError("a verdict came to the target")

    def _start(self, message: Start) -> None:
        if self._text is not None and self._text.start == message:
            return
        params = SamplingParams(message.temperature, message.top_k, message.top_p, message.seed)
        kv = self._kvs.setdefault(message.client, self._model.new_kv())
        rng = np.random.default_rng([message.seed, 1])  # another one than the device's
        self._text = _Text(message, params, [*message.prompt], kv, rng)
        known, prompt = kv.match(message.prompt[:-1]), message.prompt[:-1]
        for begin in range(known, len(prompt), self._prefill):
            self._forward(ModelInput(kv, prompt[begin : begin + self._prefill], 0))

    def _decide(self, message: Guesses) -> Verdict | None:
        text = self._text
        if text is not None and message.text < text.start.text:
            return None
        if text is None or message.text != text.start.text:
            raise RemoteProtocolError(f"guesses for text {message.text}, which is not being written")
        done = 0 if text.verdict is None else text.verdict.round
        if text.verdict is not None and message.round == done:
            return text.verdict
        if message.round < done:
            return None  # its verdict is known: a connection broke before this was acknowledged
        if message.round != done + 1:
            raise RemoteProtocolError(f"round {message.round} of a text after round {done}")
        sent = sent_with(message, self._vocab_size)
        known = text.kv.match(text.context[:-1])
        unread = [*text.context[known:], *message.tokens]
        logits = self._forward(ModelInput(text.kv, unread, len(message.tokens) + 1))
        eos = text.start.eos
        if text.params.temperature == 0.0 or not sent:
            decided = decide(logits, message.tokens, text.params, len(text.context), eos)
        else:
            q = [one.spread(self._vocab_size) for one in sent]
            decided = verify(_Rows(logits, text.params), q, message.tokens, eos, text.rng)
        text.context += decided
        text.verdict = Verdict(message.text, message.round, decided)
        return text.verdict

    def _forward(self, one: ModelInput) -> npt.NDArray[np.float32]:
        logits = to_numpy(self._model.forward([one]))
        self.forwards += 1
        if self._delay:
            time.sleep(self._delay)
        return logits


class _Rows(Sequence["Floats"]):
    """Distributions of rows of logits, each made when it is looked at: behind a rejected guess none is."""

    def __init__(self, logits: npt.NDArray[np.float32], params: SamplingParams) -> None:
        self._logits = logits
        self._params = params

    def __len__(self) -> int:
        return len(self._logits)

    @overload
    def __getitem__(self, place: int) -> Floats: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Floats]: ...
    def __getitem__(self, place: int | slice) -> Floats | Sequence[Floats]:
        if isinstance(place, slice):
            return _Rows(self._logits[place], self._params)
        return probabilities(self._logits[place], self._params)
