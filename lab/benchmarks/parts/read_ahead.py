"""A draft on texts that are there already: it reads each in one forward, and then knows all that it would draft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken
from flexspec_mq.drafting.model_drafter import ModelDrafter
from flexspec_mq.models.runner import ModelInput, to_numpy
from flexspec_mq.sampling.params import SamplingParams
from lab.benchmarks.parts.rounds import Job
from schemas.messages import Identity


class ReadAhead:
    """A `Drafter` whose tokens behind the text are those of a draft model.

    What is drafted behind a wrong token is never accepted. In its place stands what the model says behind the text's
    own token there, so rounds and accepted tokens are the model's; how often such a token ends a batch may differ.
    Accepted runs count every place of the text, while a drafter proposes nothing where the target adds its own token.

    Args:
        model: the draft.
        written: of each job, what the target wrote.
    """

    def __init__(self, model: ModelDrafter, written: Mapping[Job, Sequence[int]]) -> None:
        self._drafter = model
        self._written = {(job.prompt, job.identity): tuple(text) for job, text in written.items()}
        self._said: dict[tuple[int, Identity], list[DraftToken]] = {}

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return self._drafter.fits(context)

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """One token for each."""
        return [(self._at(self._text(one), len(one.context) - one.prompt_length),) for one in wanted]

    def free(self, session: int) -> None:
        """Forget a session."""
        for key in [key for key in self._said if key[0] == session]:
            del self._said[key]

    @staticmethod
    def _at(said: Sequence[DraftToken], place: int) -> DraftToken:
        """What stands at a place; beyond the text, which is behind a wrong token, its last one stands for others."""
        return said[min(place, len(said) - 1)]

    def _text(self, one: DraftRequest) -> list[DraftToken]:
        key = (one.session, one.identity)
        if key not in self._said:
            prompt = tuple(one.context[: one.prompt_length])
            self._said[key] = self._read(prompt, one.identity)
        return self._said[key]

    def _read(self, prompt: tuple[int, ...], identity: Identity) -> list[DraftToken]:
        text = self._written[prompt, identity]
        # The parts of a drafter: it has no way to be asked for many places at once.
        network, propose = self._drafter._model, self._drafter._proposer  # noqa: SLF001
        logits = to_numpy(network.forward([ModelInput(network.new_kv(), (*prompt, *text[:-1]), len(text))]))
        params = SamplingParams.of(identity)
        found: list[DraftToken] = []
        run = 0
        for place, (row, token) in enumerate(zip(logits, text, strict=True)):
            found.append(propose(row, params, len(prompt) + place, run))
            run = run + 1 if found[-1].token == token else 0
        return found
