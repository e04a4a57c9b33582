"""The draft on the device: guesses, and what is sent of their distributions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.params import SamplingParams
from lab.bench.traditional.probabilities import Sent, send_all, send_top
from lab.bench.traditional.rejection import draw, probabilities

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from flexspec_mq.models.runner import DraftRunner
    from lab.bench.traditional.rejection import Floats
    from lab.bench.traditional.schemes import Scheme

_PIECE = 256
"""Prompt tokens that one forward reads, as an edge node's."""
_PLAIN = SamplingParams(1.0)


@dataclass(slots=True)
class Guessed:
    """The guesses of one round.

    Attributes:
        tokens: their ids.
        sent: of each its distribution, where these are sent.
    """

    tokens: list[int] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)


class Drafts:
    """A draft that writes one text at a time for each of several clients. What it read for one stays for its next.

    Args:
        network: the draft.
        ids: token id of each column of its logits, ascending; None when they are all ids.
        vocab_size: ids that there are.
        eos: those that end a text.
    """

    def __init__(
        self,
        network: DraftRunner,
        ids: npt.NDArray[np.int64] | None,
        *,
        vocab_size: int,
        eos: Sequence[int],
    ) -> None:
        self._network = network
        self._ids = ids
        self._vocab_size = vocab_size
        self._eos = eos
        self._kvs: dict[str, Any] = {}

    def guess(
        self,
        client: str,
        context: Sequence[int],
        count: int,
        params: SamplingParams,
        scheme: Scheme,
        rng: np.random.Generator,
    ) -> Guessed:
        """Guess what follows; an end of text is the last guess.

        Where distributions are sent and the temperature is above 0, guesses are drawn from them, as rejection
        sampling wants. Without them the likeliest token is the one that the target most probably chooses. At
        temperature 0 it is that as well, and its distribution, which the target could do without, is the draft's at
        temperature 1.

        Args:
            client: whose text it is.
            context: prompt and text, not empty.
            count: guesses at most.
            params: of the text; the seed does not matter.
            scheme: says what is sent.
            rng: the device's own.
        """
        found = Guessed()
        while len(found.tokens) < count and (not found.tokens or found.tokens[-1] not in self._eos):
            row = self._logits(client, [*context, *found.tokens])
            if scheme.kept == 0:
                found.tokens.append(self._token(int(np.argmax(row))))
                continue
            q = probabilities(row, params if params.temperature > 0.0 else _PLAIN)
            sent = self._sent(q, scheme.kept)
            found.sent.append(sent)
            if params.temperature > 0.0:
                found.tokens.append(draw(sent.spread(self._vocab_size), rng))
            else:
                found.tokens.append(self._token(int(np.argmax(row))))
        return found

    def next(
        self, client: str, context: Sequence[int], params: SamplingParams, rng: np.random.Generator
    ) -> int:
        """The token with which the draft alone goes on."""
        row = self._logits(client, context)
        if params.temperature == 0.0:
            return self._token(int(np.argmax(row)))
        return self._token(draw(probabilities(row, params), rng))

    def _sent(self, q: Floats, kept: int | None) -> Sent:
        return send_all(q, self._ids, self._vocab_size) if kept is None else send_top(q, self._ids, kept)

    def _token(self, column: int) -> int:
        return column if self._ids is None else int(self._ids[column])

    def _logits(self, client: str, context: Sequence[int]) -> npt.NDArray[np.float32]:
        """Of what follows: float32 of shape [columns]."""
        kv = self._kvs.get(client)
        if kv is None:
            kv = self._kvs[client] = self._network.new_kv()
        known = kv.match(context[:-1])
        while len(context) - known > _PIECE:
            self._network.forward([ModelInput(kv, context[known : known + _PIECE], 0)])
            known += _PIECE
        row: npt.NDArray[np.float32] = to_numpy(self._network.forward([ModelInput(kv, context[known:])]))[0]
        return row
