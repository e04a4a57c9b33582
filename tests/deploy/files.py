"""Readers of the files in ``deploy/``, which parse them as systemd, compose and our programs do."""

import argparse
import re
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import broker.settings
import cloud_worker.settings
import edge_node.config
from broker.__main__ import build_parser as broker_parser
from broker.deployment.bundles import SETTINGS
from broker.deployment.folder import Deployment
from broker.settings import Role
from cloud_worker.__main__ import build_parser as cloud_parser
from edge_node.cli.main import build_parser as edge_parser
from flexspec_mq.settings import Loaded, Program, load

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
PROGRAMS: dict[str, tuple[Program[Any], argparse.ArgumentParser]] = {
    "flexspec-broker": (broker.settings.PROGRAM, broker_parser()),
    "flexspec-cloud": (cloud_worker.settings.PROGRAM, cloud_parser()),
    "flexspec-edge": (edge_node.config.PROGRAM, edge_parser()),
}


def unit(path: Path) -> dict[str, list[str]]:
    """Values of each key of a unit, in order."""
    values: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "[")):
            key, _, value = line.partition("=")
            values.setdefault(key, []).append(value)
    return values


def commands(path: Path) -> list[list[str]]:
    """Command lines of a unit, with what systemd fills in."""
    lines = [line for key, values in unit(path).items() if key.startswith("Exec") for line in values]
    filled = {"%i": "w1", "%d": "/run/credentials/x", "${STATE_DIRECTORY}": "/var/lib/x", "$MAINPID": "1"}
    return [
        shlex.split(re.sub(r"%[id]|\$\{STATE_DIRECTORY\}|\$MAINPID", lambda match: filled[match[0]], line))
        for line in lines
    ]


def settings(command: Sequence[str], environ: Mapping[str, str] | None = None) -> Loaded[Any]:
    """Settings in force for a command line of ours; its --config is one that the broker hands out.

    Raises:
        SystemExit: it has a flag that the program does not know.
        UsageError: a setting is none.
    """
    program, parser = PROGRAMS[Path(command[0]).name]
    rest = [str(handed(Path(word).name)) if word.endswith(".toml") else word for word in command[1:]]
    return load(program, parser.parse_args(rest), environ or {})


@cache
def handed(file: str) -> Path:
    """A file of settings as the broker hands it out."""
    deployment = Deployment(Path(tempfile.mkdtemp()) / "d")
    deployment.create("", "broker:8883", ("broker",), client_certificates=False, keys=True)
    deployment.add(Role.WORKER, ["w1"], ("base",))
    deployment.add(Role.EDGE, ["edge"], ())
    role, name = (Role.WORKER, "w1") if file == SETTINGS[Role.WORKER] else (Role.EDGE, "edge")
    return deployment.bundles.folder(role, name) / file


def seconds(text: str) -> float:
    """A time as systemd and compose write it."""
    number, word = re.fullmatch(r"(\d+)(s|m|min)?", text).groups()  # type: ignore[union-attr]
    return int(number) * (60 if word in ("m", "min") else 1)


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document
