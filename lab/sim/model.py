"""Models as a hash of the prefix: a target with a tokenizer of one character a token, its engine, and a draft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloud_worker.engine.interface import Facts, StepResult
from flexspec_mq.drafting.interface import Drafted, DraftRequest, DraftToken, PricedDrafter
from flexspec_mq.models.load import LoadedText
from flexspec_mq.models.tokenizer import PlainTokenizer
from flexspec_mq.protocol.effects import SessionKey
from flexspec_mq.protocol.worker.types import Full, WorkItem
from lab.simulator.world import EOS, FINGERPRINT, VOCAB, FakeTarget, draft_token
from schemas.status import TokenizerStatus

CONTEXT = 4096
_LETTERS = "abcdefghijklmnopqrstuvwxyz .,!?0123456789ABCDEFGHIJKLMNOPQRSTUVW"[: VOCAB - 1]


class Letters(PlainTokenizer):
    """A tokenizer of one character a token; the end of a text has none."""

    def __init__(self) -> None:
        self.around = None
        self.special_tokens_map: dict[str, Any] = {"eos_token": "</s>"}
        self.chat_template = None
        self.model_max_length = CONTEXT

    def __len__(self) -> int:
        return VOCAB

    @property
    def added_tokens_decoder(self) -> Mapping[int, Any]:
        """None."""
        return {}

    @property
    def eos_token_id(self) -> int | None:
        """Id that ends a text."""
        return EOS

    def get_vocab(self) -> dict[str, int]:
        """Token → id."""
        return {each: at for at, each in enumerate(_LETTERS)} | {"</s>": EOS}

    def convert_ids_to_tokens(self, ids: int) -> str | None:
        """The token of an id; None if there is none."""
        return _LETTERS[ids] if ids < EOS else "</s>"

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text."""
        del add_special_tokens
        return [_LETTERS.index(each) for each in text]

    def decode(
        self,
        token_ids: list[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """The text of ids."""
        del skip_special_tokens, clean_up_tokenization_spaces
        return "".join(_LETTERS[each] for each in token_ids if each != EOS)


LETTERS = Letters()
TEXT = LoadedText(
    source="letters",
    config={},
    generation={},
    tokenizer=LETTERS,
    fingerprint=FINGERPRINT,
    tokenizer_status=TokenizerStatus(tokens=VOCAB, vocabulary="0" * 32, eos=(EOS,)),
    eos=(EOS,),
    vocab_size=VOCAB,
    max_context=CONTEXT,
    name="letters",
)


class SimEngine:
    """An engine over the target, which is a pure function of seed and prefix. It keeps nothing for others.

    Args:
        target: the target.

    Attributes:
        fails: number of steps that raise from now on.
        held: sessions that it was given and not told to free.
    """

    head_holder = None
    grammars = None
    memory = None
    requests = None
    trouble = ""
    full = Full()

    def __init__(self, target: FakeTarget) -> None:
        self._target = target
        self.facts = Facts(FINGERPRINT, CONTEXT, VOCAB, "exact", None, "simulated", "simulated")
        self.fails = 0
        self.held: set[SessionKey] = set()
        self._pending: dict[SessionKey, WorkItem] = {}

    def add(self, item: WorkItem) -> None:
        """Take an item in."""
        self._pending[item.key] = item
        self.held.add(item.key)

    def hold(self, version: str, head: str) -> None:
        """There is one version."""

    def hold_drafter(self, version: str, drafter: PricedDrafter) -> None:
        """Nothing drafts here."""

    def drop(self, version: str) -> str:
        """There is one version."""
        return version

    def free(self, key: SessionKey) -> None:
        """Forget a session."""
        self._pending.pop(key, None)
        self.held.discard(key)

    def release(self, key: SessionKey) -> None:
        """Never called, as it keeps nothing."""
        raise AssertionError(f"it keeps nothing of {key}")

    def transfer(self, source: SessionKey, key: SessionKey, shared: int | None) -> None:
        """Never called, as it keeps nothing."""
        raise AssertionError(f"it keeps nothing of {source} for {key}, {shared}")

    def wake(self) -> None:
        """No step waits for more."""

    def close(self) -> None:
        """Nothing is open."""

    def idle(self) -> bool:
        """Whether nothing is pending."""
        return not self._pending

    def step(self) -> StepResult:
        """Decide all that is pending."""
        if self.fails:
            self.fails -= 1
            raise RuntimeError("out of memory")
        items = list(self._pending.values())
        self._pending.clear()
        decided = [(item, self._target.forward(item)) for item in items]
        return StepResult(decided, 20, len(items), sum(1 + len(item.draft) for item in items))


class SimDrafter:
    """A draft that is right in most prefixes.

    Args:
        target: the target whose tokens it guesses.
        accuracy: share of prefixes in which it is right.

    Attributes:
        held: sessions that it was asked for and not told to free.
    """

    def __init__(self, target: FakeTarget, accuracy: float) -> None:
        self._target = target
        self._accuracy = accuracy
        self.held: set[int] = set()

    def fits(self, context: Sequence[int]) -> bool:
        """Whether a token after `context` can be drafted at all."""
        return len(context) < CONTEXT

    def draft(self, wanted: Sequence[DraftRequest]) -> list[Drafted]:
        """Draft a token for each."""
        drafted: list[Drafted] = []
        for one in wanted:
            self.held.add(one.session)
            token = draft_token(self._target, one.identity.sampling.seed, one.context, self._accuracy)
            drafted.append((DraftToken(token),))
        return drafted

    def free(self, session: int) -> None:
        """Forget a session."""
        self.held.discard(session)
