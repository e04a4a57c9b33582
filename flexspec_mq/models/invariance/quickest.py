"""How many rows a product should have at least to be quick: asked with forwards of one row.

Libraries have kernels for each number of rows, and those for one or two may be slower than those for four: on an AMD
EPYC with bf16 instructions oneDNN takes a fifth longer. Rows of padding change no bit where a product's bits do not
depend on how many rows it has, which is what `Shapes` say.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from flexspec_mq.models.runner import ModelInput

if TYPE_CHECKING:
    from flexspec_mq.models.invariance.proof import Provable
    from flexspec_mq.models.invariance.shapes import Shapes

_MOST = 8
"""Rows to which a single one is padded at most."""
_CONTEXT = 32
"""Tokens before it."""
_TURNS = 5
_BETTER = 0.03
"""Other padding than the least has to be better by so much: two numbers of rows that are alike differ by chance."""


def quickest(model: Provable) -> Shapes:
    """The model's shapes, with as many rows at least as make a forward of one row the quickest.

    It takes 35 forwards of one row at most. The model's shapes stay as they are.

    Args:
        model: under the thread count that it will be used with, on a processor whose work is done when it returns.
    """
    given = model.shapes
    most = _MOST if given.max_rows is None else min(_MOST, given.max_rows)
    choices = [replace(given, min_rows=least) for least in range(given.min_rows, most + 1)]
    if len(choices) < 2:
        return given
    kv = model.new_kv()
    model.forward([ModelInput(kv, [0] * _CONTEXT, 0)])
    seconds = dict.fromkeys(choices, float("inf"))
    try:
        for _ in range(_TURNS):
            for shapes in choices:
                model.shapes = shapes
                began = time.perf_counter()
                model.forward([ModelInput(kv, [0], 1)])
                seconds[shapes] = min(seconds[shapes], time.perf_counter() - began)
                kv.roll_back(_CONTEXT)
    finally:
        model.shapes = given
    best = min(choices, key=seconds.__getitem__)
    return best if seconds[best] < seconds[given] * (1.0 - _BETTER) else given
