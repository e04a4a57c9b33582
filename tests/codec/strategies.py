"""Hypothesis strategies for every message of the wire protocol, out to the ends of every range."""

from __future__ import annotations

from hypothesis import strategies as st

from schemas.messages import (
    MAX_DRAFT_TOKENS,
    MAX_PROMPT_TOKENS,
    MAX_TOKEN_ID,
    MAX_VERDICT_TOKENS,
    Close,
    CloseReason,
    Draft,
    Error,
    ErrorCode,
    Fin,
    Identity,
    Message,
    Open,
    Poll,
    Prefix,
    Sampling,
    Verdict,
)

u32 = st.integers(0, 2**32 - 1)
positions = st.integers(0, 2**20)
counters = st.integers(0, 2**31 - 1)
millis = st.integers(0, 10_000_000)
names = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
token_ids = st.one_of(st.integers(0, MAX_TOKEN_ID), st.integers(0, 49_151))


def tokens(at_least: int, at_most: int) -> st.SearchStrategy[tuple[int, ...]]:
    """Tuples of token ids."""
    return st.lists(token_ids, min_size=at_least, max_size=at_most).map(tuple)


identities = st.builds(
    Identity,
    protocol=counters,
    fingerprint=st.binary(min_size=16, max_size=16),
    temperature=st.floats(0, 100),
    top_k=st.integers(0, MAX_TOKEN_ID),
    top_p=st.floats(0, 1, exclude_min=True),
    seed=st.integers(0, 2**64 - 1),
    eos=tokens(0, 32),
    ignore_eos=st.booleans(),
    limit=positions,
)
prefixes = st.builds(
    Prefix, count=st.integers(1, MAX_PROMPT_TOKENS), name=st.binary(min_size=16, max_size=16)
)
opens = st.builds(
    Open,
    session=u32,
    attempt=counters,
    identity=identities,
    prompt=tokens(1, 300),
    committed=tokens(0, 100),
    ahead=counters,
    seq=counters,
    draft=tokens(0, MAX_DRAFT_TOKENS),
    prefix=st.none() | prefixes,
    worker_draft=st.integers(0, MAX_DRAFT_TOKENS),
    vocabulary=st.binary(max_size=16),
)


@st.composite
def _batches(draw: st.DrawFn, kind: type[Draft | Poll]) -> Draft | Poll:
    have = draw(positions)
    return kind(
        session=draw(u32),
        attempt=draw(counters),
        seq=draw(counters),
        have=have,
        offset=draw(st.integers(-have, 2**20)),
        digest=draw(u32),
        tokens=draw(tokens(0, MAX_DRAFT_TOKENS)),
        ahead=draw(counters),
        worker_draft=draw(st.integers(0, MAX_DRAFT_TOKENS)),
    )


drafts = _batches(Draft)
polls = _batches(Poll)
closes = st.builds(
    Close, session=u32, attempt=counters, have=positions, reason=st.sampled_from(list(CloseReason))
)
verdicts = st.builds(
    Verdict,
    session=u32,
    attempt=counters,
    echo=counters,
    start=positions,
    tokens=tokens(0, MAX_VERDICT_TOKENS),
    digest=u32,
    fin=st.sampled_from(list(Fin)),
    queue=millis,
    compute=millis,
    worker=st.none() | names,
    lease=st.integers(0, 86_400),
    drafted=counters,
    granted=st.none() | st.integers(0, MAX_DRAFT_TOKENS),
    recommended=st.none()
    | st.builds(
        Sampling,
        temperature=st.floats(0, 100),
        top_k=st.integers(0, MAX_TOKEN_ID),
        top_p=st.floats(0, 1, exclude_min=True),
    ),
)
errors = st.builds(
    Error,
    session=u32,
    attempt=counters,
    code=st.sampled_from(list(ErrorCode)),
    retry=millis,
    worker=names,
    detail=st.text(st.characters(codec="utf-8"), max_size=300),
)
BY_TYPE: dict[type[Message], st.SearchStrategy[Message]] = {
    Open: opens,
    Draft: drafts,
    Poll: polls,
    Close: closes,
    Verdict: verdicts,
    Error: errors,
}
messages: st.SearchStrategy[Message] = st.one_of(*BY_TYPE.values())
