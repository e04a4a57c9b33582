"""The example heads that ship: whole, of the default model, small, and each another version."""

from importlib.resources import files
from pathlib import Path

import pytest

from flexspec_mq.heads.manifest import MANIFEST, digest, read_head

pytest.importorskip("transformers")

from flexspec_mq.evolution.check import check_head
from flexspec_mq.models.default import default_model_path
from flexspec_mq.models.load import load_text
from flexspec_mq.models.weights import weights_fingerprint

EXAMPLES = Path(str(files("flexspec_mq_default") / "heads"))
NAMES = ("format", "mathematics", "reasoning", "style")

pytestmark = pytest.mark.model


def test_all_are_of_the_default_model_and_small() -> None:
    assert tuple(sorted(path.name for path in EXAMPLES.iterdir())) == NAMES
    base = default_model_path()
    text, fingerprint = load_text(base), weights_fingerprint(base)
    digests = set()
    for name in NAMES:
        manifest = read_head(EXAMPLES / name)
        assert (manifest.base, manifest.tokenizer) == (fingerprint, text.fingerprint.hex())
        touched = check_head(EXAMPLES / name, None)
        assert touched["layers"] == list(range(6, 30))
        assert bool(touched["others"]) == (name == "reasoning")
        digests.add(digest((EXAMPLES / name / MANIFEST).read_bytes()))
    assert len(digests) == len(NAMES)
    assert sum(path.stat().st_size for path in EXAMPLES.rglob("*") if path.is_file()) < 6_000_000


def test_the_strong_one_passes_its_check() -> None:
    figures = check_head(EXAMPLES / "reasoning", default_model_path())
    assert figures["canaries"] >= 0.9 > figures["shuffled"]
