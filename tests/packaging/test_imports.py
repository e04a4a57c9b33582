"""Imports: modules that run without the heavy libraries, costs of importing, and errors for missing packages."""

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flexspec_mq.errors import ModelError

ROOT = Path(__file__).parents[2]

HEAVY = ("torch", "transformers", "numpy", "safetensors", "accelerate", "gguf", "onnxruntime", "onnx")
SLOW = ("structlog", "aiomqtt", "httpx2", "prompt_toolkit", "rich")
DAEMONS = ("edge_node.__main__", "cloud_worker.__main__", "broker.__main__")
LIGHT = (
    "flexspec_mq", "flexspec_mq.errors", "flexspec_mq.topics", "flexspec_mq.cli", "flexspec_mq.daemon.main",
    "flexspec_mq.codec.", "flexspec_mq.controller.", "flexspec_mq.energy.", "flexspec_mq.protocol.",
    "flexspec_mq.transport.",
    "flexspec_mq.models.default", "flexspec_mq.models.load", "flexspec_mq.models.text",
    "flexspec_mq.chat.main", "flexspec_mq.chat.top",
    "lab.bench.main", "lab.testbed.link.cli", "training.commands.draft", "training.head.train",
    "schemas.", "broker", "edge_node",
    "edge_node.api.app", "cloud_worker", "edge_node.doctor.examine", "cloud_worker.doctor",
)  # fmt: skip

BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError("blocked by the test: " + name, name=name)
sys.meta_path.insert(0, Block())
"""

FRESH = """
import importlib, pkgutil, sys
def forget():
    '''So that the next import begins with none of our modules.'''
    for name in [name for name in sys.modules if name.split(".")[0] in OURS]:
        del sys.modules[name]
def import_all(name):
    package = importlib.import_module(name)
    names = [name + "." + module.name for module in pkgutil.iter_modules(package.__path__)]
    assert names
    for each in names:
        importlib.import_module(each)
"""
OURS = ("flexspec_mq", "edge_node", "cloud_worker", "broker", "schemas", "lab", "training")


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter."""
    command = (sys.executable, "-c", code, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_the_block_blocks() -> None:
    done = run(BLOCK + "import numpy")
    assert done.returncode == 1
    assert "blocked by the test: numpy" in done.stderr


def test_imports_without_heavy_libraries() -> None:
    """Each module begins with none of ours loaded; with a dot at the end all of a package."""
    code = f"""
{BLOCK}
OURS = {OURS!r}
{FRESH}
for module in {LIGHT!r}:
    forget()
    print(module, flush=True)
    import_all(module[:-1]) if module.endswith(".") else importlib.import_module(module)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert tuple(done.stdout.split()) == LIGHT


def test_importing_the_package_loads_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import flexspec_mq; print(sorted(set(sys.modules) - before))"
    )
    assert run(code).stdout.strip() == "['flexspec_mq']"


COMMANDS = [
    *(
        ("flexspec_mq.cli", [*words, "--help"])
        for words in ([], ["chat"], ["top"], ["draft"], ["head"], ["model"])
    ),
    *(("flexspec_mq.cli", words) for words in (["version"], ["schema"], ["chat", "config", "show"])),
    *((daemon, words) for daemon in DAEMONS for words in (["--help"], ["config", "show"])),
    ("cloud_worker.__main__", ["--capacity", "0"]),
]


def test_what_needs_no_model_loads_nothing_heavy() -> None:
    code = f"""
OURS = {OURS!r}
{FRESH}
for module, arguments in {COMMANDS!r}:
    forget()
    try:
        importlib.import_module(module).main(arguments)
    except SystemExit:
        pass
    print("loaded", sorted(set({(*HEAVY, *SLOW)!r}) & set(sys.modules)), module, arguments)
"""
    done = run(code)
    loaded = [line for line in done.stdout.splitlines() if line.startswith("loaded [")]
    assert loaded == [f"loaded [] {module} {arguments}" for module, arguments in COMMANDS], done.stderr


def test_daemons_load_neither_laboratory_nor_training() -> None:
    """All modules that the three daemons can reach, imported in one process."""
    code = (
        "import importlib, pkgutil, sys\n"
        "for package in ('broker', 'edge_node', 'cloud_worker'):\n"
        "    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + '.'):\n"
        "        if not module.name.endswith('__main__'): importlib.import_module(module.name)\n"
        "import broker.__main__, edge_node.cli.main, cloud_worker.__main__\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] in ('lab', 'training')))"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("command", "distribution"),
    [
        (["bench"], "lab"),
        (["draft", "train", "--base", "x"], "training"),
        (["head", "train", "--base", "x"], "training"),
    ],
)
def test_subcommands_that_are_not_installed_say_how_to_have_them(
    command: list[str], distribution: str
) -> None:
    absent = "import sys\nfrom importlib import metadata\nmetadata.entry_points = lambda **_: metadata.EntryPoints()\n"
    done = run(absent + "from flexspec_mq.cli import main\nsys.exit(main(sys.argv[1:]))", *command)
    assert done.returncode == 2
    assert f"comes with flexspec-{distribution}, which is not installed" in done.stderr
    assert f"-m pip install -e ./{distribution}" in done.stderr


def test_the_extras_for_devices_bring_neither_torch_nor_transformers() -> None:
    """All that `pip install .[edge,draft]` installs, by what the installed packages say that they need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["edge"], *extras["draft"]]
    brought: set[str] = set()
    waiting = [Requirement(line) for line in asked]
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name in brought:
            continue
        brought.add(name)
        needs = [Requirement(line) for line in metadata.requires(name) or ()]
        waiting += [
            requirement
            for requirement in needs
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        ]
    assert {"onnxruntime", "tokenizers", "jinja2", "numpy", "aiomqtt"} <= brought
    assert not brought & {"torch", "transformers", "safetensors", "accelerate", "onnx"}
    assert not {Requirement(line).name for line in extras["edge"]} & {"onnxruntime", "tokenizers", "numpy"}


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


def run_without(folder: Path, left_out: tuple[str, ...], *command: str) -> subprocess.CompletedProcess[str]:
    """``python …``, it and all that it starts without some packages."""
    (folder / "sitecustomize.py").write_text(_LEFT_OUT.replace("{names!r}", repr(left_out)))
    env = {**os.environ, "PYTHONPATH": str(folder), "XDG_CONFIG_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *command], env=env, capture_output=True, text=True, timeout=240, check=False
    )


@pytest.mark.parametrize(
    ("left_out", "command", "code", "said", "extra"),
    [
        (TORCH, ("cloud_worker",), 3, "running a target needs torch, transformers, safetensors", "models"),
        (TORCH, ("flexspec_mq.cli", "pair", "HERE", "HERE"), 3, "running a model needs torch", "models"),
        (("torch",), ("flexspec_mq.cli", "demo"), 3, "the demo needs torch", "demo"),
        (("torch",), ("lab.demo.evolution",), 3, "the demo needs torch", "models"),
        (TORCH, ("flexspec_mq.cli", "bench"), 3, "flexspec bench needs torch, transformers", "models"),
        (TORCH, ("flexspec_mq.cli", "head", "check", "HERE"), 2, "this needs torch", "models"),
        (("numpy",), ("cloud_worker",), 2, "this needs numpy", "models,serve"),
        (("numpy",), ("edge_node", "ask", "x"), 2, "this needs numpy", "edge,draft"),
        (("starlette",), ("edge_node", "serve", "--api-port", "0"), 2, "this needs starlette", "edge,draft"),
    ],
)
def test_a_package_that_is_not_there_is_named(
    tmp_path: Path, left_out: tuple[str, ...], command: tuple[str, ...], code: int, said: str, extra: str
) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = run_without(
        tmp_path, left_out, "-m", *(str(tmp_path) if word == "HERE" else word for word in command)
    )
    assert done.returncode == code
    error, hint = done.stderr.splitlines()[-2:]
    assert error.startswith(f"error: {said}")
    assert hint.startswith("  hint: install ")
    assert hint.endswith(f" -m pip install '.[{extra}]'")
    assert "Traceback" not in done.stderr


_ASKS = """
import sys
from edge_node.cli.main import main
for draft in sys.argv[1:]:
    print(main(["ask", "x", "--broker", "127.0.0.1:1", "--draft", draft]))
"""


def test_a_draft_that_is_not_there_is_told_as_that_without_torch(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run_without(tmp_path, TORCH, "-c", _ASKS, f"{tmp_path}/gone", "./gone", "drafts/gone", str(empty))
    assert done.stdout.split() == 4 * [str(ModelError.exit_code)]
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    missing = [f"{tmp_path}/gone", "gone", "drafts/gone"]
    assert [line.partition(",")[0] for line in said[:3]] == [
        f"error: there is no folder {it}" for it in missing
    ]
    assert said[3].startswith(f"error: {empty} ")
    assert "config.json" in said[3]


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
