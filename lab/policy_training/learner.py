"""A network that learns which action costs least: its scores are likelihoods, whose expected cost is descended."""

import json
from collections.abc import Sequence

import torch

from flexspec_mq.controller.rl import ACTIONS, FEATURES, FORM, Network
from lab.policy_training.branching import Row

_UNITS = 16
_RATE = 0.01
"""Adam's rate at first; at last it is a tenth of that."""
_BATCH = 1024
_FIRST = 0.5
"""Share of a batch in which actions have just parted; of these states there are few, and they are all alike."""
_MOST = 2.0
"""An action that takes longer than the best by more than this is as bad as one that takes so much."""
_SPREAD = 0.003
"""Worth of a nat of likelihoods' entropy, as an excess: so that nothing is ruled out early."""
_DECAY = 1.0
"""Decay of weights in a step, for a rate of 1: there are few episodes for so many weights."""


def excess_of(rows: Sequence[Row]) -> torch.Tensor:
    """By how much more each action takes than the best, as a share of it: [rows, actions]."""
    seconds = torch.tensor([row.seconds for row in rows])
    return seconds / seconds.amin(1, keepdim=True).clamp_min(1e-6) - 1


def fit(rows: Sequence[Row], seed: int, steps: int) -> Network:
    """Learn from nothing by some steps of Adam over rows that are drawn.

    Args:
        rows: rows to train on.
        seed: seed of the first weights and of the order of rows.
        steps: how many.

    Returns:
        The network as devices take it: of features as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    numbers, excess = torch.tensor([row.numbers for row in rows]), excess_of(rows).clamp_max(_MOST)
    mean, deviation = numbers.mean(0), numbers.std(0, correction=0) + 1e-2
    inputs = (numbers - mean) / deviation
    hidden = torch.randn(len(FEATURES), _UNITS, generator=generator) / len(FEATURES) ** 0.5
    out = torch.randn(_UNITS, len(ACTIONS), generator=generator) / _UNITS**0.5 / 10
    hidden_bias, bias = torch.zeros(_UNITS), torch.zeros(len(ACTIONS))
    weights = [one.requires_grad_() for one in (hidden, out, hidden_bias, bias)]
    groups = [{"params": weights[:2], "weight_decay": _DECAY}, {"params": weights[2:], "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=_RATE)
    falling = torch.optim.lr_scheduler.ExponentialLR(adam, 10 ** (-1 / steps))
    branched = torch.tensor([row.branched for row in rows])
    kinds = [which for kind in (True, False) if len(which := (branched == kind).nonzero()[:, 0])]
    sizes = (int(_BATCH * _FIRST), _BATCH - int(_BATCH * _FIRST)) if len(kinds) > 1 else (_BATCH,)
    for _ in range(steps):
        drawn = torch.cat(
            [
                which[torch.randint(len(which), (size,), generator=generator)]
                for which, size in zip(kinds, sizes, strict=True)
            ]
        )
        scores = torch.relu(inputs[drawn] @ hidden + hidden_bias) @ out + bias
        likely = scores.softmax(1)
        loss = (likely * (excess[drawn] + _SPREAD * (likely + 1e-8).log())).sum(1).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()
    with torch.no_grad():
        plain = hidden / deviation[:, None]
        units = torch.cat([plain, (hidden_bias - mean @ plain)[None]]).T
    hidden_rows, out_rows = (tuple(map(tuple, one.tolist())) for one in (units, out))
    return Network(hidden_rows, out_rows, tuple(bias.tolist()))


def network_text(network: Network) -> str:
    """The file of a network, as `read_network` reads it."""

    def short(row: Sequence[float]) -> list[float]:
        return [float(f"{value:.4g}") for value in row]

    return json.dumps(
        {
            "form": FORM,
            "features": FEATURES,
            "actions": [action.name for action in ACTIONS],
            "hidden": [short(row) for row in network.hidden],
            "out": [short(row) for row in network.out],
            "bias": short(network.bias),
        },
        separators=(",", ":"),
    )
