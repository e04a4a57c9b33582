"""Programs where packages that they need are not installed: they say which, and how to have them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flexspec_mq.errors import ModelError

TORCH = "torch", "transformers", "safetensors"
_LEFT_OUT = """
import importlib.machinery as machinery

class Found(machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {names!r} else machinery.PathFinder.find_spec(name, path, target)

import sys
sys.meta_path[sys.meta_path.index(machinery.PathFinder)] = Found
"""


def run(folder: Path, left_out: tuple[str, ...], *command: str) -> subprocess.CompletedProcess[str]:
    """``python …``, it and all that it starts without some packages."""
    (folder / "sitecustomize.py").write_text(_LEFT_OUT.replace("{names!r}", repr(left_out)))
    env = {**os.environ, "PYTHONPATH": str(folder), "XDG_CONFIG_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *command], env=env, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("left_out", "command", "code", "said", "extra"),
    [
        (TORCH, ("cloud_worker",), 3, "running a target needs torch, transformers, safetensors", "models"),
        (
            TORCH,
            ("flexspec_mq.cli", "model", "info", "HERE"),
            3,
            f"running a model needs {', '.join(TORCH)}",
            "models",
        ),
        (("torch",), ("flexspec_mq.cli", "demo"), 3, "the demo needs torch", "models"),
        (("torch",), ("lab.demo.evolution",), 3, "the demo needs torch", "models"),
        (TORCH, ("flexspec_mq.cli", "bench"), 2, "flexspec bench needs torch, transformers", "models"),
        (TORCH, ("flexspec_mq.cli", "head", "check", "HERE"), 2, "this needs torch", "models"),
        (("numpy",), ("cloud_worker",), 2, "this needs numpy", "models"),
        (("numpy",), ("edge_node", "ask", "x"), 2, "this needs numpy", "edge,serve"),
        (("starlette",), ("edge_node", "serve", "--api-port", "0"), 2, "this needs starlette", "edge,serve"),
    ],
)
def test_a_package_that_is_not_there_is_named(
    tmp_path: Path, left_out: tuple[str, ...], command: tuple[str, ...], code: int, said: str, extra: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = run(tmp_path, left_out, "-m", *(str(tmp_path) if word == "HERE" else word for word in command))
    assert done.returncode == code
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith(f"error: {said}")
    assert hint.startswith("  hint: install ")
    assert hint.endswith(f" -m pip install '.[{extra}]'")
    assert "Traceback" not in done.stderr


_ASKS = """
import sys
from edge_node.cli.main import main
engine, *drafts = sys.argv[1:]
for draft in drafts:
    print(main(["ask", "x", "--broker", "127.0.0.1:1", "--draft-engine", engine, "--draft", draft]))
"""


@pytest.mark.parametrize("engine", ["auto", "onnx", "compact", "transformers"])
@pytest.mark.parametrize("left_out", [(), TORCH], ids=["all packages", "no torch"])
def test_a_draft_that_is_not_there_is_told_as_that(
    tmp_path: Path, left_out: tuple[str, ...], engine: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run(
        tmp_path, left_out, "-c", _ASKS, engine, f"{tmp_path}/gone", "./gone", "drafts/gone", str(empty)
    )
    assert done.stdout.split() == 4 * [str(ModelError.exit_code)]
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    missing = [f"{tmp_path}/gone", "gone", "drafts/gone"]
    assert [line.partition(",")[0] for line in said[:3]] == [
        f"error: there is no folder {it}" for it in missing
    ]
    without = "graphs for ONNX Runtime" if engine == "onnx" else "config.json"
    assert said[3].startswith(f"error: {empty} ")
    assert without in said[3]


def test_other_errors_of_imports_are_bugs() -> None:
    """A module of an installed package that is not there is none that anybody can install."""
    code = (
        "from flexspec_mq.daemon.main import run_main\n"
        "def work(arguments):\n    import msgspec.gone\n"
        "run_main(work, [])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
