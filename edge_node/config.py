"""All settings of ``flexspec-edge``, and how they come from flags, the environment and a file.

Another part of the node gets a section of its own: a frozen dataclass whose fields carry a `Setting`, and a field of
`EdgeConfig`. Its flags, variables, keys of the file, help and ``config show`` follow from that.
"""

import argparse
from dataclasses import dataclass, fields, replace

from edge_node.api.settings import ApiSettings
from edge_node.asking.settings import AskSettings
from edge_node.limits import LimitOptions
from edge_node.settings import EdgeSettings, PlanOptions
from flexspec_mq.catalogue.options import FamilyOptions
from flexspec_mq.daemon.logs import LogOptions
from flexspec_mq.settings import Loaded, Program, add_flags, load, named_after_user
from flexspec_mq.telemetry import TelemetryOptions
from flexspec_mq.transport.arguments import LinkOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeConfig:
    """All settings of ``flexspec-edge``, section by section."""

    node: EdgeSettings
    family: FamilyOptions
    plan: PlanOptions
    limits: LimitOptions
    api: ApiSettings
    asks: AskSettings
    link: LinkOptions
    log: LogOptions
    telemetry: TelemetryOptions


_FILE_ONLY = """
    in_flight qos stop policy_weights
    api_texts api_client_connections lenient
    outbox_texts outbox_mb outbox_for outbox_age
    ask_texts ask_per_minute ask_username ask_password_file ask_tls_ca
"""
"""Settings that are seldom changed, and then for good."""

_USUAL = "broker insecure username password_file tls_ca keys edge version family draft pair api_port offline"
PROGRAM = Program("edge", EdgeConfig, frozenset(_FILE_ONLY.split()), frozenset(_USUAL.split()))
"""``edge.toml`` and ``FLEXSPEC_EDGE_…``."""


def add_arguments(parser: argparse.ArgumentParser, *, api: bool = True) -> None:
    """Add the flags of all settings.

    Args:
        parser: parser of a command.
        api: whether it serves the API; its flags are left out otherwise.
    """
    titles = {
        "family": "family",
        "plan": "plan",
        "limits": "limits",
        "api": "API",
        "asks": "asks by MQTT",
        "link": "broker",
        "log": "log",
        "telemetry": "telemetry",
    }
    kinds = () if api else (ApiSettings, AskSettings)
    without = tuple(field.name for kind in kinds for field in fields(kind))
    add_flags(parser, PROGRAM, titles=titles, without=without)


def from_arguments(args: argparse.Namespace) -> Loaded[EdgeConfig]:
    """Settings from parsed flags, the environment and the file; see `add_arguments`.

    Raises:
        UsageError: an unknown key or an impossible value.
    """
    loaded = load(PROGRAM, args)
    config = loaded.settings
    if loaded.origins["edge"].kind == "default" and config.link.username is None:
        return replace(loaded, settings=replace(config, node=replace(config.node, ephemeral=True)))
    return named_after_user(loaded, "node", "edge")
