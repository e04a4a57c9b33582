"""`make release` makes a release of a commit, and between two a development version."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import IO

import pytest

import flexspec_mq

ROOT = Path(__file__).parents[2]
VERSION = flexspec_mq.__version__
DATED = f"## {VERSION}, 2026-12-24"


def git(folder: Path, *command: str) -> None:
    who = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    subprocess.run(("git", *who, *command), cwd=folder, capture_output=True, check=True)


def commit(folder: Path, heading: str) -> None:
    """Another commit, which dates the version so."""
    changes = folder / "CHANGELOG.md"
    changes.write_text(re.sub(rf"^## {VERSION}, .+$", heading, changes.read_text(), flags=re.MULTILINE))
    git(folder, "commit", "--quiet", "--all", "--allow-empty", "--message", "a change")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone of the last commit, without tags, with the script that is here."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone of the repository")
    folder = tmp_path / "clone"
    git(ROOT, "clone", "--quiet", "--no-tags", str(ROOT), str(folder))
    script = Path("scripts", "release.py")
    (folder / script).write_bytes((ROOT / script).read_bytes())
    return folder


@contextmanager
def release(clone: Path) -> Iterator[IO[str]]:
    """Its output, where no index of packages can be reached; it is ended with the block."""
    env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    command = (sys.executable, clone / "scripts" / "release.py")
    with subprocess.Popen(
        command, cwd=clone, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.terminate()


def test_between_releases_it_builds_a_development_version(clone: Path) -> None:
    commit(clone, f"## {VERSION}, not released yet")
    with release(clone) as said:
        version, _, why = said.readline().partition(": ")
        assert re.fullmatch(rf"{VERSION}\.dev\d{{12}}", version)
        assert why == f"a development version, as {VERSION} is not released yet\n"
        lines = list(takewhile(lambda line: "the same bytes" not in line, said))
    wheels = [line for line in lines if line.endswith(f"/flexspec_mq-{version}-py3-none-any.whl\n")]
    assert len(wheels) == 3, lines


def test_a_commit_with_a_date_is_a_release_and_those_behind_its_tag_are_none(clone: Path) -> None:
    commit(clone, DATED)
    for tagged in (False, True):  # which makes it again
        if tagged:
            git(clone, "tag", f"v{VERSION}")
        with release(clone) as said:
            assert said.readline() == f"{VERSION}: a release\n"
    commit(clone, DATED)
    with release(clone) as said:
        assert re.match(rf"{VERSION}\.post\d{{12}}: a development version", said.readline())
