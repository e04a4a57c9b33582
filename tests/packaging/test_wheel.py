"""The wheel holds all five packages with their data and no weights, and its commands run from any folder."""

import os
import shlex
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import flexspec_mq

ROOT = Path(__file__).parents[2]
PACKAGES = ("flexspec_mq", "broker", "edge_node", "cloud_worker", "schemas")
DATA = (
    "flexspec_mq/codec/dictionary-v1",
    "flexspec_mq/energy/presets.toml",
    "edge_node/page/index.html",
    "edge_node/page/app.js",
    "edge_node/page/page.css",
    f"flexspec_mq-{flexspec_mq.__version__}.data/data/share/flexspec/systemd/flexspec-broker.service",
    *(str(file.relative_to(ROOT)) for file in (ROOT / "edge_node" / "page").rglob("*") if file.is_file()),
)
SCRIPTS = ("flexspec", "flexspec-edge", "flexspec-cloud", "flexspec-broker")
MODULES = ("edge_node", "cloud_worker", "broker")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a program to its good end; returns its standard output."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(kind: str, source: Path, out: Path) -> Path:
    """Build without the network: with the build backend that is installed."""
    run(sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", out, cwd=source)
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    out = tmp_path_factory.mktemp("dist")
    with tarfile.open(build("sdist", ROOT, out / "sdist")) as sdist:
        sdist.extractall(out / "source", filter="data")
    (source,) = (out / "source").iterdir()
    return source


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    """The wheel of the sdist, as an index would hand it out."""
    return build("wheel", source, source.with_name("wheel"))


@pytest.fixture(scope="module")
def weights(source: Path, wheel: Path) -> Path:
    """The wheel of the weights, of the sdist too, beside the other one."""
    built = build("wheel", source / "flexspec_mq_default", source.with_name("weights"))
    return built.rename(wheel.with_name(built.name))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment that holds the wheel and sees this one's dependencies, not the sources."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    # Appended behind the wheel's own folder, so the wheel wins; as plain text a .pth runs no code of ours.
    (site / "dependencies.pth").write_text("\n".join(dependency_folders()))
    python = home / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "--quiet", "--disable-pip-version-check")
    run(*pip, "install", "--no-deps", "--no-index", "--ignore-installed", wheel, cwd=home)
    return home / "bin"


def dependency_folders() -> list[str]:
    """Where this environment's packages lie. .pth files in there are not followed by the new environment."""
    return [folder for folder in sys.path if folder.endswith(("site-packages", "dist-packages"))]


def test_contents(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    folders = {name.split("/")[0] for name in names}
    assert {name for name in folders if not name.endswith((".dist-info", ".data"))} == set(PACKAGES)
    for package in PACKAGES:
        assert f"{package}/py.typed" in names
    assert set(DATA) <= names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    for source in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        assert source.relative_to(ROOT).as_posix() in names
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".safetensors"))]
    assert wheel.stat().st_size < 2_000_000


def test_weights_have_a_wheel_of_their_own_of_the_same_version(weights: Path) -> None:
    names = set(zipfile.ZipFile(weights).namelist())
    files = {
        file.relative_to(ROOT).as_posix() for file in (ROOT / "flexspec_mq_default").rglob("*.safetensors")
    }
    assert len(files) == 5
    assert {*files, "flexspec_mq_default/__init__.py", "flexspec_mq_default/LICENSE"} <= names
    assert not [name for name in names if name.endswith((".toml", ".pyc"))]
    assert weights.name == f"flexspec_mq_default-{flexspec_mq.__version__}-py3-none-any.whl"


def test_the_checkout_makes_the_same(wheel: Path, tmp_path: Path) -> None:
    assert build("wheel", ROOT, tmp_path / "wheel").read_bytes() == wheel.read_bytes()


def test_the_environment_uses_the_wheel_and_not_the_sources(installed: Path, tmp_path: Path) -> None:
    code = f"import {', '.join(PACKAGES)}; print(*({'.__file__, '.join(PACKAGES)}.__file__))"
    for file in run(installed / "python", "-c", code, cwd=tmp_path).split():
        assert Path(file).is_relative_to(installed.parent)


@pytest.mark.parametrize("command", [*SCRIPTS, *(f"python -m {module}" for module in MODULES)])
def test_commands_explain_themselves(command: str, installed: Path, tmp_path: Path) -> None:
    program, *more = command.split()
    assert run(installed / program, *more, "--help", cwd=tmp_path).startswith("usage: ")


def test_weights_are_found_where_they_are_installed(installed: Path, weights: Path, tmp_path: Path) -> None:
    code = (
        "from flexspec_mq.errors import ModelError\n"
        "from flexspec_mq.models.draft.artifact import default_delta_path\n"
        "try: print(default_delta_path().stat().st_size)\n"
        "except ModelError as error: print(error.hint)"
    )
    said = run(installed / "python", "-c", code, cwd=tmp_path)
    assert said.startswith("install flexspec-mq-default, ")
    command = shlex.split(said.partition(" -m pip ")[2])
    assert command[-1] == "flexspec-mq-default"
    assert weights.is_file()
    pip = (sys.executable, "-m", "pip", "--python", installed / "python", "--disable-pip-version-check")
    # The environment whose dependencies it sees has them as well.
    run(*pip, *command, "--ignore-installed", "--quiet", "--no-index", "--no-deps", cwd=tmp_path)
    assert int(run(installed / "python", "-c", code, cwd=tmp_path)) > 1_000_000
