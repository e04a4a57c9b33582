"""`make setup` takes no environment away that works before another one does."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (
    "Makefile", "scripts", "pyproject.toml", "constraints.txt", "flexspec_mq_default/pyproject.toml",
    "lab/pyproject.toml", "training/pyproject.toml",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that was set up by this interpreter, of whose packages there are none but pip."""
    tmp_path = tmp_path_factory.mktemp("setup")
    for name in SOURCES:
        source, place = ROOT / name, tmp_path / name
        place.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, place)
    venv.create(tmp_path / ".venv", with_pip=True)
    (tmp_path / ".venv" / ".setup-done").write_text("of an earlier version\n")
    return tmp_path


def setup(folder: Path, python: Path) -> str:
    """Output of a setup that fails, where no index of packages can be reached."""
    env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    command = ("make", "setup", f"PYTHON={python}")
    done = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode, done.stdout
    return done.stdout + done.stderr


def works(folder: Path) -> bool:
    python = folder / ".venv" / "bin" / "python"
    return (
        subprocess.run((python, "-m", "pip", "--version"), capture_output=True, check=False).returncode == 0
    )


def another_python(folder: Path) -> Path:
    """This interpreter at another place, as a second installation of the same version."""
    python = folder / "bin" / Path(sys.executable).resolve().name
    library = Path(sysconfig.get_path("stdlib"))
    for place in (python, folder / "lib" / library.name):
        place.parent.mkdir(parents=True)
    shutil.copy(Path(sys.executable).resolve(), python)
    (folder / "lib" / library.name).symlink_to(library)
    return python


@pytest.mark.parametrize(
    ("name", "says"), [("typo", "there is no such program"), ("old", "no Python 3.11 or later")]
)
def test_an_interpreter_that_cannot_be_is_refused_and_what_is_there_stays(
    folder: Path, name: str, says: str
) -> None:
    python = folder / name
    if name == "old":
        python.write_text("#!/bin/sh\nexit 1\n")
        python.chmod(0o755)
    assert says in setup(folder, python)
    assert works(folder)


def test_what_works_is_back_where_its_successor_is_not_finished(folder: Path) -> None:
    said = setup(folder, another_python(folder / "other"))
    assert "making .venv anew" in said
    assert "pip could not finish" in said
    assert "No matching distribution" in (folder / ".venv" / "setup.log").read_text()
    assert works(folder)
    assert (folder / ".venv" / ".setup-done").read_text() == "of an earlier version\n"
    assert not (folder / ".venv-before").exists()
    (folder / ".venv").rename(folder / ".venv-before")  # as by a setup that was killed
    (folder / ".venv").mkdir()
    setup(folder, folder / "typo")
    assert works(folder)
