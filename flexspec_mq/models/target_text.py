"""A target's texts on a device that has another tokenizer, and drafts for them by a model that has yet another one.

A worker tells which tokens its target has added to its vocabulary, which of them show, end a text or begin one, and how
a conversation is written (`told_text`). A device whose vocabulary is the target's makes a tokenizer of its own one and
this (`as_told`); any other one fetches the target's own file first. Where a draft has not quite these tokens, a
`TokenMap` stands between the two.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import replace
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, get_frame_parameters

from flexspec_mq import waiting
from flexspec_mq.codec.blobs import blob_name
from flexspec_mq.errors import ModelError
from flexspec_mq.models.checkpoint import need_libraries
from flexspec_mq.models.fingerprint import TokenizerContents, left_out_ids, other_vocabulary
from flexspec_mq.models.load import LoadedText
from flexspec_mq.models.tokenizer import PlainTokenizer, Tokenizer
from schemas.status import AddedToken, TargetText, TokenizerStatus

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_LEFT_OUT = "left out"
MOST_PACKED, _MOST_UNPACKED = 4_000_000, 40_000_000
"""Bytes of a tokenizer's file, compressed and not."""
_LEVEL = 9
"""Level of zstd."""
_PARSE_SECONDS, _PARSE_BYTES = 60, 4 << 30
"""Bounds of a process that parses a stranger's tokenizer."""
_PARSE = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_CPU, ({_PARSE_SECONDS}, {_PARSE_SECONDS}))
resource.setrlimit(resource.RLIMIT_AS, ({_PARSE_BYTES}, {_PARSE_BYTES}))
from tokenizers import Tokenizer
Tokenizer.from_str(sys.stdin.buffer.read().decode()).encode("Why is the sky blue?")
"""


class ToldText(NamedTuple):
    """Facts that a worker tells of its target's texts.

    Attributes:
        tokenizer: tokenizer in short, as in the worker's status.
        text: how texts are written and read.
        file: the tokenizer.json, compressed; empty where there is none.
    """

    tokenizer: TokenizerStatus
    text: TargetText
    file: bytes = b""


def told_text(text: LoadedText) -> ToldText:
    """Describe how a target's texts are written and read. May take some tenths of a second."""
    backend = getattr(text.tokenizer, "backend_tokenizer", None)
    file = b"" if backend is None else pack_tokenizer(backend.to_str().encode())
    if not 0 < len(file) <= MOST_PACKED:
        return ToldText(text.tokenizer_status, target_text(text))
    return ToldText(replace(text.tokenizer_status, file=blob_name(file)), target_text(text), file)


def target_text(text: LoadedText) -> TargetText:
    """Describe how a target's texts are written and read."""
    tokenizer = text.tokenizer
    contents = TokenizerContents.from_tokenizer(tokenizer)
    ordinary, added = _parts(tokenizer)
    plain, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    starts = (start for start in range(len(whole)) if whole[start : start + len(plain)] == plain)
    begin = next(starts, 0)
    return TargetText(
        ordinary=ordinary,
        added=added,
        special={role: value for role, value in contents.special.items() if role != _LEFT_OUT},
        template=contents.template,
        before=tuple(whole[:begin]),
        after=tuple(whole[begin + len(plain) :]),
        context=text.max_context,
    )


def as_told(ours: LoadedText, told: TargetText, fingerprint: str, stated: TokenizerStatus) -> LoadedText:
    """A target's texts by our vocabulary and all else of the target's. May take a second.

    Args:
        ours: whose vocabulary is taken.
        told: the worker's document.
        fingerprint: fingerprint of the target's tokenizer, in hex.
        stated: the target's tokenizer in short.

    Raises:
        ModelError: the target's ids mean other tokens than ours.
    """
    backend = getattr(ours.tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"the tokenizer of {ours.name} has no tokenizer.json, from which one could be made")
    other = other_vocabulary(ours.tokenizer_status, stated)
    other = other or "what its worker says of its added tokens is not true"
    if _parts(ours.tokenizer) != (told.ordinary, told.added):
        try:
            backend = _with_added(ours.tokenizer, backend, told)
        except Exception as error:
            # The tokenizers library has no error class: it raises Exception itself for what it cannot parse.
            raise ModelError(other) from error
    return _text_of(backend, told, fingerprint, stated, other)


def pack_tokenizer(file: bytes) -> bytes:
    """Compress a tokenizer.json."""
    return ZstdCompressor(_LEVEL).compress(file)


def unpacked_tokenizer(file: bytes, *, checked: bool) -> str:
    """The tokenizer.json in a file that a worker gave; a process of its own parses it first. Takes some seconds.

    Args:
        file: the bytes; their hash is the one that the worker's status tells.
        checked: whether that was done before.

    Raises:
        ModelError: it is too large, damaged, or takes too much to parse.
    """
    try:
        if get_frame_parameters(file).content_size > _MOST_UNPACKED:  # an undeclared size reads as 2**64 - 1
            raise ModelError(f"the target's tokenizer unpacks to more than {_MOST_UNPACKED} bytes")
        text = ZstdDecompressor().decompress(file)
        if not checked:
            command = [sys.executable, "-I", "-c", _PARSE]
            subprocess.run(command, input=text, check=True, capture_output=True, timeout=waiting.STARTS)
        return text.decode()
    except (ZstdError, ValueError, subprocess.SubprocessError, OSError) as error:
        raise ModelError(f"the target's tokenizer cannot be read: {error!s:.200}") from error


def as_fetched(text: str, told: TargetText, fingerprint: str, stated: TokenizerStatus) -> LoadedText:
    """A target's texts by its own tokenizer.json. May take a second.

    Args:
        text: the file, as `unpacked_tokenizer` gives it.
        told: the worker's document.
        fingerprint: fingerprint of the target's tokenizer, in hex.
        stated: the target's tokenizer in short.

    Raises:
        ModelError: the two are not of one tokenizer.
    """
    need_libraries("writing for this target", "draft", ("tokenizers", "jinja2", "numpy"))
    from tokenizers import Tokenizer as Backend

    try:
        backend = Backend.from_str(text)
    except (
        Exception
    ) as error:  # the tokenizers library has no error class; another version of it may have read the file
        raise ModelError(f"the target's tokenizer cannot be read: {error!s:.200}") from error
    other = "what its worker says of its tokenizer is not true"
    return _text_of(backend, told, fingerprint, stated, other)


def _text_of(
    backend: Any, told: TargetText, fingerprint: str, stated: TokenizerStatus, other: str
) -> LoadedText:
    """Texts by a tokenizer that has the target's tokens.

    Raises:
        ModelError: saying `other`, if it has not.
    """
    from jinja2 import TemplateError

    special = msgspec.to_builtins(told.special)
    try:
        tokenizer = PlainTokenizer(backend, special, told.template.get("default"), told.context)
    except TemplateError as error:
        raise ModelError(f"its chat template cannot be read: {error!s:.300}") from error
    tokenizer.around = told.before, told.after
    roles = {**special, _LEFT_OUT: sorted(left_out_ids(tokenizer))}
    contents = TokenizerContents(tokenizer.get_vocab(), roles, told.template)
    if contents.digest().hex() != fingerprint:
        raise ModelError(other)
    return LoadedText(
        source=stated.file,
        config={},
        generation={},
        name="the target",
        tokenizer=tokenizer,
        fingerprint=contents.digest(),
        tokenizer_status=contents.status(stated.eos, stated.rows),
        eos=stated.eos,
        vocab_size=stated.rows,
        max_context=told.context,
    )


def _parts(tokenizer: Tokenizer) -> tuple[int, tuple[AddedToken, ...]]:
    """The id behind the last ordinary token, and the added tokens."""
    added = tuple(
        AddedToken(
            token_id,
            token.content,
            token.special,
            token.normalized,
            token.lstrip,
            token.rstrip,
            token.single_word,
        )
        for token_id, token in sorted(tokenizer.added_tokens_decoder.items())
    )
    known = {token.id for token in added}
    ordinary = 1 + max((each for each in tokenizer.get_vocab().values() if each not in known), default=-1)
    return ordinary, added


def _with_added(ours: Tokenizer, backend: Any, told: TargetText) -> Any:
    """A tokenizer with the added tokens of another one, and no others.

    Raises:
        ValueError: it would lack ordinary tokens, for which the library may end its thread.
    """
    from tokenizers import Tokenizer as Backend

    whole = json.loads(backend.to_str())
    whole["added_tokens"] = [msgspec.structs.asdict(each) for each in told.added]
    if isinstance(vocabulary := whole["model"].get("vocab"), dict):
        added = {token.content: token.id for token in told.added}
        others = {*added.values()}
        # The library numbers added tokens itself, but for those that the vocabulary has.
        kept = {
            token: each
            for token, each in vocabulary.items()
            if each < told.ordinary and each not in others and token not in added
        }
        whole["model"]["vocab"] = kept | added
        ordinary = vocabulary.keys() - {token.content for token in ours.added_tokens_decoder.values()}
        if lacking := ordinary - kept.keys() - added.keys():
            raise ValueError(min(lacking))
    return Backend.from_str(json.dumps(whole))


@dataclass(frozen=True, slots=True)
class TokenMap:
    """Ids of a target as a draft's, and back.

    Attributes:
        rows: ids that the draft has, padding included.
        target_rows: ids that the target has.
        reads: draft's id of a target's, where it is another one.
        writes: target's id of a draft's, where it is another one.
        never: ids of the draft, ascending, that mean nothing to the target.
        lacking: tokens of the target that the draft does not have.
        misfit: why the draft cannot draft for this target; empty where it can.
    """

    rows: int
    target_rows: int
    reads: Mapping[int, int]
    writes: Mapping[int, int]
    never: npt.NDArray[np.int64]
    lacking: int = 0
    misfit: str = ""

    @property
    def same(self) -> bool:
        """Whether all ids that one side knows are the other's."""
        known = self.rows == self.target_rows and not (self.reads or self.writes or len(self.never))
        return known and not self.misfit

    def read(self, tokens: Sequence[int]) -> Sequence[int]:
        """The draft's ids of a text; a token that it does not have is read as another one."""
        if not self.reads and max(tokens, default=0) < self.rows:
            return tokens
        return [self.reads.get(token, token if token < self.rows else 0) for token in tokens]

    def columns(self, ids: npt.NDArray[np.int64] | None) -> npt.NDArray[np.int64]:
        """Columns of the draft's logits that must not be chosen; `ids` are those of the columns, None for all."""
        import numpy as np

        return self.never if ids is None else np.flatnonzero(np.isin(ids, self.never))


def token_map(draft: LoadedText, target: LoadedText) -> TokenMap:
    """Compare the vocabularies of a draft and a target. May take some tenths of a second."""
    import numpy as np

    rows, most = draft.vocab_size, target.vocab_size
    if draft.tokenizer_status.vocabulary == target.tokenizer_status.vocabulary:
        return TokenMap(rows, most, {}, {}, np.arange(most, rows))
    ours, theirs = draft.tokenizer.get_vocab(), target.tokenizer.get_vocab()
    added = {*draft.tokenizer.added_tokens_decoder, *target.tokenizer.added_tokens_decoder}
    names = {each: token for token, each in ours.items()}
    others = [
        (each, token)
        for token, each in theirs.items()
        if each not in added and names.get(each, token) != token
    ]
    if others:
        each, token = min(others)
        example = f"{each}: {names[each]!r} in the draft and {token!r} in the target"
        words = f"{len(others)} ids mean other tokens, such as {example}"
        return TokenMap(rows, most, {}, {}, np.arange(0), misfit=words)
    reads = {each: ours.get(token, 0) for token, each in theirs.items() if ours.get(token) != each}
    writes = {each: theirs[token] for token, each in ours.items() if theirs.get(token, each) != each}
    known = [each for token, each in ours.items() if theirs.get(token, most) < most]
    lacking = sum(token not in ours for token in theirs)
    return TokenMap(rows, most, reads, writes, np.setdiff1d(np.arange(rows), known), lacking)
