"""Run `benchmarks.answers`, with its flags: an edge node as it comes, streaming, and every side of this folder."""

from __future__ import annotations

import sys

from benchmarks import answers
from benchmarks.pricing.sides import DEFAULT
from flexspec_mq.bench.traditional.schemes import SCHEMES

if __name__ == "__main__":
    sys.exit(answers.main(["--sides", DEFAULT, *SCHEMES, *sys.argv[1:]]))
