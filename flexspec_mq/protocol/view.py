"""A read-only sequence over prompt and generated tokens that costs nothing to make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import overload


class TokenView(Sequence[int]):
    """Prompt followed by the first `length` entries of a list that its owner only ever appends to.

    Slices come back as tuples. Thousands of tokens per step would make copies quadratic over a long text.
    """

    __slots__ = ("_head", "_length", "_tail")

    def __init__(self, head: tuple[int, ...], tail: list[int], length: int) -> None:
        self._head = head
        self._tail = tail
        self._length = length

    def __len__(self) -> int:
        return len(self._head) + self._length

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[int, ...]: ...

    def __getitem__(self, index: int | slice) -> int | tuple[int, ...]:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step != 1:
                return tuple(self[i] for i in range(start, stop, step))
            cut = len(self._head)
            return self._head[start:stop] + tuple(self._tail[max(0, start - cut) : max(0, stop - cut)])
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._head[index] if index < len(self._head) else self._tail[index - len(self._head)]

    def __iter__(self) -> Iterator[int]:
        return chain(self._head, islice(self._tail, self._length))

    def __repr__(self) -> str:
        return f"TokenView({len(self._head)} + {self._length} tokens)"
