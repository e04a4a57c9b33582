"""Packed deltas: how far rounding goes, what is refused, and bytes that stay what they are."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import FingerprintError, ModelError, UsageError

pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file

from flexspec_mq.models.draft.artifact import export
from flexspec_mq.models.draft.delta import (
    GROUP,
    LEVELS,
    SCALES,
    WIDTHS,
    dequantise,
    load_delta,
    origin_of,
    read_delta,
    read_meta,
    read_start,
    unpack,
)
from tests.models.test_draft_artifact import START, N, save_base, save_trained, trained_draft
from training.draft.architecture import trained_parameters
from training.draft.packing import pack, pack_file, quantise, save_delta

GOLDEN = Path(__file__).parents[1] / "models" / "golden" / "packed_delta.safetensors"
LAYER = "model.layers.{}.mlp.up_proj.weight"


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 3 * GROUP),
    bits=st.sampled_from(WIDTHS),
    size=st.floats(-7, 4),
    seed=st.integers(0, 999),
)
def test_no_weight_moves_by_more_than_half_a_level(
    rows: int, columns: int, bits: int, size: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(rows, columns, generator=generator) * 10**size
    levels, scales = quantise(matrix, bits)
    again = dequantise(levels, scales, columns, bits)
    assert again.shape == matrix.shape
    assert levels.numel() == rows * (-(-columns // 2) if bits == 4 else columns)
    for first in range(0, columns, GROUP):
        part = matrix[:, first : first + GROUP]
        wrong = (again[:, first : first + GROUP] - part).abs().amax(1)
        scale = part.abs().amax(1) / (2 ** (bits - 1) - 1)
        # float16 rounds a scale up by a thousandth, or by 6e-8 where it is tiny.
        assert bool((wrong <= scale * 0.501 + 3.1e-8).all())


def test_what_was_not_trained_stays_exactly() -> None:
    for bits in WIDTHS:
        levels, scales = quantise(torch.zeros(3, 70), bits)
        assert not scales.any()
        assert not dequantise(levels, scales, 70, bits).any()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e7])
def test_weights_that_no_scale_can_hold_are_refused(wrong: float) -> None:
    matrix = torch.ones(2, 70)
    matrix[1, 69] = wrong
    with pytest.raises(ModelError, match="not finite or too large"):
        quantise(matrix, 4)


def test_widths_and_shapes_are_checked() -> None:
    with pytest.raises(UsageError, match="5 bits"):
        quantise(torch.ones(2, 2), 5)
    levels, scales = quantise(torch.ones(2, 70), 4)
    for broken in ((levels, scales, 72, 4), (levels[:1], scales, 70, 4), (levels.char(), scales, 70, 4)):
        with pytest.raises(ModelError, match="another shape"):
            dequantise(*broken)


def test_a_packed_delta_makes_nearly_the_same_draft(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base")
    draft = trained_draft(base)
    delta = save_trained(tmp_path / "d", tmp_path / "base", draft)
    trained = {name: p.detach() for name, p in trained_parameters(draft, N)}
    errors = {}
    for bits in WIDTHS:
        pack_file(delta, tmp_path / "base", tmp_path / f"{bits}", bits)
        meta, whole = load_delta(tmp_path / f"{bits}", tmp_path / "base")
        assert (meta.bits, meta.training) == (bits, {"steps": 7})
        assert whole.keys() == trained.keys()
        origins = read_start(tmp_path / "base", START)
        wrong = added = 0.0
        for name, tensor in trained.items():
            if origin := tensor.ndim == 2 and origin_of(name, N, START):
                wrong += float((whole[name].float() - tensor.float()).square().sum())
                added += float((tensor.float() - origins[origin].float()).square().sum())
        errors[bits] = (wrong / added) ** 0.5
        for name, tensor in whole.items():
            if tensor.ndim == 1:
                assert torch.equal(tensor, trained[name])
        folder = export(tmp_path / "base", tmp_path / f"out{bits}", tmp_path / f"{bits}")
        written = load_file(folder / "model.safetensors")
        assert all(torch.equal(written[name], tensor) for name, tensor in whole.items())
        assert not any(name.endswith((LEVELS, SCALES)) for name in written)
    # Uniform rounding of normal weights: a level is a seventh, or a 127th, of the largest of 32 in a group.
    assert 0.03 < errors[4] < 0.15
    assert errors[8] < 0.01
    assert (tmp_path / "4").stat().st_size < (tmp_path / "8").stat().st_size < delta.stat().st_size


def test_a_packed_delta_needs_the_very_layers_that_it_is_a_difference_to(tmp_path: Path) -> None:
    delta = save_trained(tmp_path / "d", tmp_path / "base", trained_draft(save_base(tmp_path / "base")))
    packed = tmp_path / "packed"
    pack_file(delta, tmp_path / "base", packed, 4)
    with pytest.raises(ModelError, match="packed already"):
        pack_file(packed, tmp_path / "base", tmp_path / "twice", 4)
    weights = tmp_path / "base" / "model.safetensors"
    tensors = load_file(weights)
    tensors[LAYER.format(START[0])] += 1
    save_file(tensors, weights)
    export(tmp_path / "base", tmp_path / "whole", delta)  # what a head changes is no part of it
    with pytest.raises(FingerprintError, match="another base"):
        export(tmp_path / "base", tmp_path / "out", packed)
    assert not (tmp_path / "out").exists()


def test_deltas_that_do_not_fit_their_layers_are_refused() -> None:
    name, origin = LAYER.format(2), LAYER.format(3)
    layers = {origin: torch.zeros(4, 6)}
    with pytest.raises(ModelError, match="of the shape of"):
        pack({name: torch.ones(4, 5)}, layers, 2, (3,), 4)
    with pytest.raises(ModelError, match="only 1 blocks"):
        pack({LAYER.format(3): torch.ones(4, 6)}, layers, 2, (3,), 4)
    packed = pack({name: torch.ones(4, 6)}, layers, 2, (3,), 4)
    assert torch.equal(unpack(packed, layers, 2, (3,), 4)[name].float(), torch.ones(4, 6))
    with pytest.raises(ModelError, match="scales or its layer"):
        unpack({name + LEVELS: packed[name + LEVELS]}, layers, 2, (3,), 4)
    with pytest.raises(ModelError, match="another shape"):
        unpack(packed, {origin: torch.zeros(5, 6)}, 2, (3,), 4)


def golden_parts() -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A delta of one matrix and one norm, and the layer that it started from; no random numbers, which may change."""
    grid = torch.arange(3 * 70, dtype=torch.float32).view(3, 70)
    layer = {LAYER.format(3): (grid.sin() / 8).bfloat16()}
    trained = (layer[LAYER.format(3)].float() + (grid * 0.7).cos() / 32).bfloat16()
    return {LAYER.format(2): trained, "model.norm.weight": torch.ones(4, dtype=torch.bfloat16)}, layer


def test_the_bytes_of_a_packed_delta_do_not_change() -> None:
    tensors, layers = golden_parts()
    meta, stored = read_delta(GOLDEN)
    assert meta.bits == 4
    packed = pack(tensors, layers, 2, (3,), 4)
    assert packed.keys() == stored.keys()
    for name, tensor in packed.items():
        assert torch.equal(tensor, stored[name]), name
    whole = unpack(stored, layers, 2, (3,), 4)
    wrong = (whole[LAYER.format(2)].float() - tensors[LAYER.format(2)].float()).abs().max()
    assert 0 < float(wrong) < 1 / 32 / 14 + 2**-10
    # Worked out by hand: what was added to the first weight is cos(0)/32, the largest of its group, so level 7.
    assert int(stored[LAYER.format(2) + LEVELS][0, 0]) & 15 == 7 + 8
    assert np.float16(1 / 32 / 7) <= float(stored[LAYER.format(2) + SCALES][0, 0]) <= 1.002 / 32 / 7
    assert json.loads(json.dumps(asdict(read_meta(GOLDEN))))["start"] == [3]


def write_golden() -> None:
    """Run by hand, from the checkout, when the format changes."""
    from flexspec_mq.models.draft.delta import DeltaMeta

    tensors, layers = golden_parts()
    meta = DeltaMeta("0" * 32, 2, (3,), bits=4, start_fingerprint="0" * 32)
    save_delta(GOLDEN, pack(tensors, layers, 2, (3,), 4), meta)
