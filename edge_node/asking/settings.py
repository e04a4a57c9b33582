"""All that a node is told of asks by MQTT, as settings of ``flexspec-edge serve``."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

from flexspec_mq import topics
from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Setting, verify
from flexspec_mq.transport.arguments import LinkOptions, broker_at, link_settings
from flexspec_mq.transport.base import LinkSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class AskSettings:
    """Settings of asks; `Setting.help` has the words for users.

    Attributes, sizes in bytes:
        max_ask: of one ask.
        max_kept: answers kept for a user at a time.
        max_asks: asks of all users that are being answered or wait.
    """

    mqtt_ask: Annotated[
        bool, Setting(help="answer whoever asks for a text by MQTT, on f1/ask/<edge>/<user> (docs/asking.md)")
    ] = False
    ask_broker: Annotated[
        str | None,
        Setting(
            help="broker on which the node is asked, as `broker`",
            check=broker_at,
            default="that of its workers",
        ),
    ] = None
    ask_username: Annotated[str | None, Setting(help="MQTT user name at ask_broker")] = None
    ask_password: Annotated[
        str | None, Setting(help="MQTT password at ask_broker; file and environment only", secret=True)
    ] = field(default=None, repr=False)
    ask_password_file: Annotated[
        Path | None, Setting(help="file with that password on its first line", replaces="ask_password")
    ] = None
    ask_tls_ca: Annotated[
        Path | None, Setting(help="certificate authority to trust at ask_broker; turns TLS on")
    ] = None
    ask_texts: Annotated[
        int, Setting(help="texts written for a user that asks by MQTT, at a time", least=1)
    ] = 4
    ask_per_minute: Annotated[float, Setting(help="asks a minute of such a user, in the mean", above=0)] = (
        60.0
    )
    home_assistant: Annotated[
        str | None,
        Setting(
            help="announce the node by MQTT discovery to the Home Assistant that is logged in as this MQTT user; "
            "'anybody' on a broker without users",
            check=partial(topics.checked, "user"),
            default="not announced",
        ),
    ] = None
    max_ask: int = 2**17
    max_kept: int = 64
    max_asks: int = 256

    def __post_init__(self) -> None:
        """Refuse what no node can be asked with.

        Raises:
            UsageError: naming the setting.
        """
        verify(self)
        if self.home_assistant is not None and not self.mqtt_ask:
            raise UsageError(
                "home_assistant needs mqtt_ask", hint="Home Assistant asks by MQTT: set --mqtt-ask"
            )
        given = (self.ask_username, self.ask_password, self.ask_password_file, self.ask_tls_ca)
        if self.ask_broker is None and any(value is not None for value in given):
            raise UsageError(
                "ask_username, ask_password and ask_tls_ca need ask_broker",
                hint="without it the node is asked on the broker of its workers, as the user that it is there",
            )

    def link(self, edge: str, options: LinkOptions, *, ephemeral: bool = False) -> LinkSettings:
        """Settings of the link on which asks come.

        Args:
            edge: name of the node.
            options: how it reaches the broker of its workers.
            ephemeral: nobody chose that name.

        Raises:
            UsageError: naming the setting that cannot be used.
        """
        if self.home_assistant is not None and (ephemeral or "." in edge):
            raise UsageError(
                "home_assistant needs a name of the node, without dots", hint="give one with --edge"
            )
        if self.ask_broker is not None:
            options = LinkOptions(
                broker=self.ask_broker,
                username=self.ask_username,
                password=self.ask_password,
                password_file=self.ask_password_file,
                tls_ca=self.ask_tls_ca,
            )
        return link_settings(options, f"a-{edge}")
