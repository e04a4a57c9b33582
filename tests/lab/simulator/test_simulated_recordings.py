"""Recordings of texts and drafts, a drafter that replays them, and what forwards cost."""

from flexspec_mq.drafting.interface import DraftRequest
from lab.simulator.cost import DraftForward
from lab.simulator.recording import RecordedText
from lab.simulator.replayed_drafter import ReplayedDrafter
from tests.lab.simulator.recordings import random_recording

RECORDING = random_recording()


def request(number: int, place: int, *, text: int = 0, wrong: int = 0) -> DraftRequest:
    """For a position of a text, of which the last tokens may be wrong."""
    one = RECORDING.texts[text]
    tokens = [*one.tokens[: place - wrong], *(token + 1 for token in one.tokens[place - wrong : place])]
    return DraftRequest(
        number,
        [*one.prompt, *tokens],
        RECORDING.identity(one),
        committed=len(one.prompt),
        prompt_length=len(one.prompt),
    )


def test_a_target_decides_up_to_the_first_difference() -> None:
    text = RecordedText((9,), 0.0, 1, (1, 2, 3, 4), ((1, 0.5),) * 4)
    assert text.decide(0, ()) == (1,)
    assert text.decide(0, (1, 2, 9, 4)) == (1, 2, 3)
    assert text.decide(1, (2, 3)) == (2, 3, 4)
    assert text.decide(2, (3, 4, 5, 6)) == (3, 4)
    assert text.decide(3, (7,)) == (4,)


def test_a_replayed_draft_is_that_of_its_text_and_place_and_takes_its_time() -> None:
    spent: list[DraftForward] = []
    drafter = ReplayedDrafter(RECORDING, spent.append, prefill=64)
    places = (0, 3, 11)
    batches = drafter.draft([request(number, place, text=number) for number, place in enumerate(places)])
    assert [(batch[0].token, batch[0].confidence) for batch in batches if batch] == [
        RECORDING.texts[number].proposals[place] for number, place in enumerate(places)
    ]
    assert [forward.sessions for forward in spent] == [3]
    behind = RECORDING.texts[0].proposal(500)
    assert behind == RECORDING.texts[0].proposal(len(RECORDING.texts[0].tokens) - 1)


def test_a_replayed_draft_reads_a_prompt_in_pieces_before_it_says_anything() -> None:
    spent: list[DraftForward] = []
    long = random_recording(prompt=100)
    text = long.texts[0]
    drafter = ReplayedDrafter(long, spent.append, prefill=64)
    one = DraftRequest(7, list(text.prompt), long.identity(text), 100, 100)
    assert drafter.draft([one]) == [None]
    (found,) = drafter.draft([one])
    assert found is not None
    assert [(token.token, token.confidence) for token in found] == [text.proposals[0]]
    assert spent == [DraftForward(1, 64), DraftForward(1, 35)]
    drafter.free(7)
    assert drafter.draft([one]) == [None]


def test_a_replayed_draft_reads_again_what_came_otherwise() -> None:
    spent: list[DraftForward] = []
    drafter = ReplayedDrafter(RECORDING, spent.append, prefill=64)
    for one in (request(1, 0), request(1, 1), request(1, 3, wrong=2), request(1, 3)):
        drafter.draft([one])
    # The prompt and a token; one more; two more; and these two again.
    assert [forward.read for forward in spent] == [len(RECORDING.texts[0].prompt) - 1, 0, 1, 1]
