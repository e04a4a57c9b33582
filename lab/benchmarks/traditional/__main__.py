"""Run `lab.benchmarks.answers`, with its flags: an edge node as it comes, streaming, and every side of this folder."""

from __future__ import annotations

import sys

from lab.bench.traditional.schemes import SCHEMES
from lab.benchmarks import answers
from lab.benchmarks.pricing.sides import DEFAULT

if __name__ == "__main__":
    sys.exit(answers.main(["--sides", DEFAULT, *SCHEMES, *sys.argv[1:]]))
