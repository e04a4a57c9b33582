"""Flags that commands of ``flexspec draft`` share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexspec_mq.evolution import offline

if TYPE_CHECKING:
    import argparse


def add_base(parser: argparse.ArgumentParser) -> None:
    """``--base``; `base_path` reads it."""
    parser.add_argument(
        "--base", required=True, metavar="FOLDER", help="checkpoint folder of the base model, or 'default'"
    )


def add_delta(parser: argparse._ActionsContainer, *, required: bool = False) -> None:
    """``--delta``."""
    text = "a trained delta" if required else "a trained delta (default: the one that ships)"
    offline.add_path(parser, "--delta", "FILE", text, required=required)


def add_head(parser: argparse.ArgumentParser, text: str) -> None:
    """``--head``."""
    offline.add_path(parser, "--head", "FOLDER", f"of a head: {text}")


def add_temperatures(parser: argparse.ArgumentParser, text: str, *default: float) -> None:
    """``--temperatures``."""
    shown = f"{text} (default: {' '.join(f'{t:g}' for t in default)})"
    parser.add_argument(
        "--temperatures", type=float, nargs="+", default=list(default), metavar="T", help=shown
    )
