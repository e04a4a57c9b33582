"""The preset of `flexspec bench` that compares what the published tables compare."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from lab.bench import main as bench
from lab.benchmarks import answers


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Flags that the bench gets, which measures nothing."""
    found: list[list[str]] = []

    def run(argv: Sequence[str]) -> int:
        found.append([*argv])
        return 0

    monkeypatch.setattr(bench, "run", run)
    return found


def test_flags_of_the_bench_are_handed_on_and_win(asked: list[list[str]]) -> None:
    given = ["--links", "wifi", "4g", "--questions", "20", "--delays-ms", "0", "60"]
    assert answers.main(given) == 0
    (flags,) = asked
    begin = flags.index("--strategies") + 1
    assert flags[begin : begin + len(answers.STRATEGIES)] == [*answers.STRATEGIES]
    assert flags[-len(given) :] == given
    assert answers.main(["--strategies", "streaming"]) == 0
    assert asked[1].count("--strategies") == 1


def test_the_server_of_llama_cpp_is_asked_where_it_is_there(
    asked: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "_has_llama", lambda: True)
    monkeypatch.setattr(answers, "_gguf", lambda _target, scratch: scratch / "target.gguf")
    assert answers.main([]) == 0
    command = asked[0][asked[0].index("--server") + 1]
    assert command.startswith("llama-server -m /")
    assert command.endswith("--host {host} --port {port}")
