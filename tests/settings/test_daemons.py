"""The settings of the three daemons, as their users see them."""

import argparse
import json
import re
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import broker.settings
import cloud_worker.settings
import edge_node.config
from broker.__main__ import main as run_broker
from cloud_worker.__main__ import build_parser as cloud_parser
from cloud_worker.__main__ import main as run_cloud
from cloud_worker.settings import CloudConfig, FamilySettings, WorkerSettings
from edge_node.cli.main import build_parser as edge_parser
from edge_node.cli.main import main as run_edge
from edge_node.config import EdgeConfig
from edge_node.fleet.catalogue import family_catalogue
from edge_node.settings import EdgeSettings
from flexspec_mq.catalogue.options import FamilyOptions
from flexspec_mq.chat.settings import PROGRAM as CHAT
from flexspec_mq.daemon.logs import LogOptions
from flexspec_mq.errors import UsageError
from flexspec_mq.evolution.settings import PROGRAM as HEAD
from flexspec_mq.settings import Loaded, Program
from flexspec_mq.settings.flags import explained
from flexspec_mq.settings.values import address
from flexspec_mq.transport.arguments import LinkOptions, link_settings
from flexspec_mq.transport.base import TlsSettings

ROOT = Path(__file__).resolve().parents[2]
DAEMONS: dict[str, tuple[Callable[[Sequence[str]], int], Program[Any]]] = {
    "edge": (run_edge, edge_node.config.PROGRAM),
    "cloud": (run_cloud, cloud_worker.settings.PROGRAM),
    "broker": (run_broker, broker.settings.PROGRAM),
}


KEY = "ab" * 32


def shown(capsys: pytest.CaptureFixture[str], daemon: str, *flags: str) -> dict[str, Any]:
    assert DAEMONS[daemon][0](["config", "show", "--json", *flags]) == 0
    rows: dict[str, Any] = json.loads(capsys.readouterr().out)
    return rows


def edge_config(*flags: str) -> Loaded[EdgeConfig]:
    return edge_node.config.from_arguments(edge_parser().parse_args(["serve", *flags]))


def cloud_config(*flags: str) -> Loaded[CloudConfig]:
    return cloud_worker.settings.from_arguments(cloud_parser().parse_args(flags))


@pytest.mark.parametrize("daemon", DAEMONS)
def test_every_setting_can_come_from_anywhere(
    daemon: str, capsys: pytest.CaptureFixture[str], settings_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each default written to the file and to the environment is read back as what it is."""
    program = DAEMONS[daemon][1]
    wanted = {key: entry.default for key, entry in program.entries.items() if entry.default not in (None, ())}
    lines = [
        f"{key} = {json.dumps(value if not isinstance(value, Path) else str(value))}"
        for key, value in wanted.items()
    ]
    path = settings_folder / f"{daemon}.toml"
    path.write_text("\n".join(lines))
    from_file = shown(capsys, daemon)
    assert from_file["file"] == str(path)
    for number, (key, value) in enumerate(wanted.items(), 1):
        row = from_file["settings"][key]
        expected = str(path.parent / value) if isinstance(value, Path) else value
        assert (row["value"], row["from"], row["where"]) == (expected, "file", f"{path}:{number}")
    path.unlink()
    for key, value in wanted.items():
        monkeypatch.setenv(
            program.variable(key), json.dumps(value) if isinstance(value, bool) else str(value)
        )
    rows = shown(capsys, daemon)["settings"]
    for key, value in wanted.items():
        row = rows[key]
        assert (row["from"], row["where"]) == ("environment", program.variable(key))
        assert row["value"] == (str(value) if isinstance(value, Path) else value)


@pytest.mark.parametrize("daemon", DAEMONS)
def test_the_table(daemon: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert DAEMONS[daemon][0](["config", "show"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(DAEMONS[daemon][1].entries)
    assert all(line.endswith(" default") for line in lines[1:-1])
    assert lines[-1] == "file: none"


@pytest.mark.parametrize("daemon", ["edge", "cloud"])
def test_passwords_are_never_shown(
    daemon: str, capsys: pytest.CaptureFixture[str], settings_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings_folder / f"{daemon}.toml").write_text("password = 'hunter2'")
    assert shown(capsys, daemon)["settings"]["password"]["value"] == "********"
    monkeypatch.setenv(f"FLEXSPEC_{daemon.upper()}_PASSWORD", "hunter3")
    assert DAEMONS[daemon][0](["config", "show"]) == 0
    table = capsys.readouterr().out
    assert "********" in table
    assert "hunter" not in table
    config = edge_config() if daemon == "edge" else cloud_config()
    assert link_settings(config.settings.link, "x").password == "hunter3"  # noqa: S105
    assert "hunter" not in repr(config)


def test_a_setting_that_only_a_file_breaks_stops_the_daemon(
    capsys: pytest.CaptureFixture[str], settings_folder: Path
) -> None:
    (settings_folder / "cloud.toml").write_text("capacity = 0")
    assert run_cloud([]) == 2
    assert f"set by file {settings_folder}/cloud.toml:1 (live sessions)" in capsys.readouterr().err
    (settings_folder / "edge.toml").write_text("broker = 'host:70000'")
    assert run_edge(["ask", "hi"]) == 2
    assert "error: port 70000 is not between 1 and 65535\n" in capsys.readouterr().err
    (settings_folder / "edge.toml").write_text("offline = 'hodl'")
    assert run_edge(["config", "show"]) == 2
    assert "offline: 'hodl' is none of hold, provisional, deliver" in capsys.readouterr().err
    (settings_folder / "edge.toml").write_text("# mine\nfridge = 1\n")
    assert run_edge(["config", "show"]) == 2
    assert f"{settings_folder}/edge.toml:2: unknown key 'fridge'" in capsys.readouterr().err
    (settings_folder / "broker.toml").write_text("session_expiry = 'soon'")
    assert run_broker(["run"]) == 2
    assert "session_expiry 'soon' is no time" in capsys.readouterr().err


def test_flags_before_and_after_the_subcommand_of_a_worker(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cloud(["--threads", "3", "--verbose", "config", "show", "--json", "--lease", "9"]) == 0
    rows = json.loads(capsys.readouterr().out)["settings"]
    given = {key: (row["value"], row["where"]) for key, row in rows.items() if row["from"] == "flag"}
    assert given == {"threads": (3, "--threads"), "lease": (9, "--lease"), "log_level": ("info", "--verbose")}


@pytest.mark.parametrize(
    ("configure", "section", "kind", "length"),
    [(edge_config, "node", "edge", 6), (cloud_config, "worker", "worker", 4)],
    ids=["edge", "worker"],
)
def test_a_daemons_name(configure: Callable[..., Loaded[Any]], section: str, kind: str, length: int) -> None:
    """It is the one given, or the user's, or else drawn for each run."""

    def name(loaded: Loaded[Any]) -> str:
        return str(getattr(getattr(loaded.settings, section), kind))

    assert name(configure(f"--{kind}", "truck", "--username", "bob")) == "truck"
    of_user = configure("--username", "bob")
    assert (name(of_user), str(of_user.origins[kind])) == ("bob", "flag --username")
    drawn = name(configure())
    assert len(drawn) == length
    assert drawn != name(configure())
    with pytest.raises(UsageError, match="cannot stand in a topic") as refused:
        configure("--username", "bob/b")
    assert f"--{kind}" in refused.value.hint


def test_only_a_drawn_name_of_an_edge_is_ephemeral() -> None:
    names = ((), ("--username", "bob"), ("--edge", "truck"))
    assert [edge_config(*flags).settings.node.ephemeral for flags in names] == [True, False, False]


def test_a_client_id_with_a_password_cannot_be_guessed_and_stays_the_same() -> None:
    def client_id(name: str, password: str | None) -> str:
        return link_settings(LinkOptions(username=name, password=password), f"w-{name}").client_id

    assert client_id("bob", None) == "w-bob"
    assert client_id("bob", "secret") == client_id("bob", "secret")
    ids = {client_id(name, password) for name in ("bob", "eve") for password in ("secret", "other")}
    assert len(ids) == 4
    assert all(re.fullmatch(r"w-(bob|eve)-[0-9a-f]{12}", each) for each in ids)


@pytest.mark.parametrize(
    ("daemon", "key", "words"),
    [
        ("edge", "draft", ("default", "none")),
        ("edge", "tokenizer", ("default",)),
        ("cloud", "target", ("default",)),
        ("cloud", "draft", ("default", "lookup", "none", "auto")),
        ("cloud", "heads", ()),
        ("edge", "root_key", ()),
        ("cloud", "root_key", ()),
    ],
)
def test_a_folder_beside_the_file_is_meant(
    daemon: str,
    key: str,
    words: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
    settings_folder: Path,
    tmp_path: Path,
) -> None:
    def value(written: str) -> str:
        family = 'family = "smol"\n' if key in {"heads", "root_key"} else ""
        other = "" if key == "root_key" or not family else f'root_key = "{"0" * 64}"\n'
        text = f"{family}{other}{key} = {json.dumps(written)}"
        (settings_folder / f"{daemon}.toml").write_text(text)
        return str(shown(capsys, daemon)["settings"][key]["value"])

    for name in ("mine", "owner/mine", *words):
        (settings_folder / name).mkdir(parents=True)
    assert value("mine") == str(settings_folder / "mine")
    assert value("owner/mine") == str(settings_folder / "owner" / "mine")
    assert value("./gone") == str(settings_folder / "gone")
    assert value("../gone") == f"{settings_folder}/../gone"
    assert value("owner/gone") == "owner/gone"
    assert value(str(tmp_path)) == str(tmp_path)
    for word in words:
        assert value(word) == word


@pytest.mark.parametrize(
    ("broker_url", "host", "port", "tls"),
    [
        ("h.example:99", "h.example", 99, False),
        ("h.example", "h.example", 1883, False),
        ("[::1]", "::1", 1883, False),
        ("mqtt://h.example:99", "h.example", 99, False),
        ("mqtt://h.example/", "h.example", 1883, False),
        ("MQTTS://h.example", "h.example", 8883, True),
        ("mqtts://[::1]:99", "::1", 99, True),
        ("mqtt://[::1]", "::1", 1883, False),
    ],
)
def test_a_broker_by_its_url(broker_url: str, host: str, port: int, tls: bool) -> None:
    if not tls and host != "::1":
        with pytest.raises(UsageError, match=f"the broker {host} is another machine"):
            link_settings(LinkOptions(broker=broker_url), "e")
    link = link_settings(LinkOptions(broker=broker_url, insecure=True), "e")
    assert (link.host, link.port, link.tls) == (host, port, TlsSettings() if tls else None)
    if tls or broker_url == host:
        link = link_settings(LinkOptions(broker=broker_url, tls_ca=Path("ca.crt")), "e")
        assert (link.port, link.tls) == (port if tls else 8883, TlsSettings(Path("ca.crt")))


@pytest.mark.parametrize(
    ("broker_url", "said", "hint"),
    [
        ("ws://h.example:80", "no address of a broker of MQTT over TCP", "mqtts://"),
        ("tcp://h.example:1883", "no address of a broker of MQTT over TCP", "mqtt://"),
        ("mqtt://h.example/path", "no address of a broker of MQTT over TCP", "mqtt://"),
        ("mqtt://bob:secret@h.example", "holds a user", "password_file"),
        ("mqtt://h.example:x", "is not host:port", ""),
        ("h.example/path", "is not host:port", ""),
        ("two words", "is not host:port", ""),
    ],
)
def test_a_broker_by_a_url_that_is_none(
    broker_url: str, said: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in (run_edge, run_cloud):
        assert run(["config", "show", "--broker", broker_url]) == UsageError.exit_code
        error = capsys.readouterr().err
        assert said in error
        assert hint in error
        assert "--broker" in error
        assert "secret" not in error


def test_a_url_without_tls_beside_tls_files_is_refused() -> None:
    with pytest.raises(UsageError, match="without TLS"):
        link_settings(LinkOptions(broker="mqtt://h.example", tls_ca=Path("ca.crt")), "e")


def test_the_patience_of_a_link_is_for_ever_unless_told_otherwise(settings_folder: Path) -> None:
    for text in ("", "give_up_after = inf"):
        (settings_folder / "edge.toml").write_text(text)
        assert link_settings(edge_config().settings.link, "e").give_up_after is None


def test_sections_made_by_hand_keep_the_same_rules() -> None:
    for make in (
        lambda: EdgeSettings(edge="a/b"),
        lambda: EdgeSettings(edge="a", version=""),
        lambda: EdgeSettings(edge="a", threads=0),
        lambda: EdgeSettings(edge="a", wait=float("nan")),
        lambda: WorkerSettings(worker="a b"),
        lambda: WorkerSettings(worker="a", lease=86_401),
        lambda: WorkerSettings(worker="a", prefill=1),
        lambda: LogOptions(log_level="loud"),
        lambda: LogOptions(log_format="xml"),
        lambda: LinkOptions(broker="nowhere:"),
        lambda: LinkOptions(password="a", password_file=Path("b")),  # noqa: S106
    ):
        with pytest.raises(UsageError):
            make()


def test_addresses() -> None:
    assert address("[::1]:1883") == ("::1", 1883)
    for wrong in ("", ":1", "a", "a:", "a:b", "a:-1", "a:0", "a:65536", "a:²"):
        with pytest.raises(UsageError):
            address(wrong)


def test_credentials_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "identities.json").write_text('{"a": 5}')
    assert run_broker(["run", str(tmp_path)]) == 4
    assert "identities.json cannot be used" in capsys.readouterr().err
    assert run_broker(["check", "127.0.0.1:1", "--password-file", "/no/such"]) == 2
    assert "/no/such cannot be read" in capsys.readouterr().err


def commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(dict(action.choices) for action in parser._actions if isinstance(action.choices, dict))


@pytest.mark.parametrize("daemon", ["edge", "cloud"])
def test_help_all_explains_each_setting(
    daemon: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "10000")  # no line is broken
    program = DAEMONS[daemon][1]
    parser = commands(edge_parser())["serve"] if daemon == "edge" else cloud_parser()
    with pytest.raises(SystemExit, match="0"):
        parser.parse_args(["--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    for key, entry in program.entries.items():
        has_flag = not entry.setting.secret and key not in program.without_flags
        assert (explained(program, entry) in text) == (has_flag or entry.setting.secret)
        assert bool(re.search(f" {entry.flag}[ ,]", text)) == has_flag, key


def test_a_setting_without_a_flag_names_its_key(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_edge(["serve", "--in-flight", "5"])
    where = "set in_flight in edge.toml, or FLEXSPEC_EDGE_IN_FLIGHT in the environment"
    assert f"argument --in-flight: there is no such flag; {where}" in capsys.readouterr().err


def test_the_documentation_lists_each_setting() -> None:
    """The site fills the tables of `docs/settings.md` from the declarations; the file has a place for each program."""
    rendered = runpy.run_path(str(ROOT / "scripts" / "document_tables.py"))["rendered"]
    rows = rendered((ROOT / "docs" / "settings.md").read_text()).splitlines()
    for program in (*(program for _, program in DAEMONS.values()), HEAD, CHAT):
        for entry in program.entries.values():
            help_, _, rest = explained(program, entry).rpartition(" (default: ")
            assert f"| `{entry.key}` | {help_} | {rest.partition('; env ')[0]} |" in rows


@pytest.mark.parametrize(("run", "command"), [(run_edge, ["serve"]), (run_edge, ["ask"]), (run_cloud, [])])
def test_help_has_what_people_use_and_help_all_the_rest(
    run: Callable[[list[str]], int], command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def explained_flags(flag: str) -> set[str]:
        with pytest.raises(SystemExit) as ended:
            run([*command, flag])
        assert ended.value.code == 0
        return set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))

    few, all_of_them = explained_flags("--help"), explained_flags("--help-all")
    assert {"--broker", "--version", "--draft", "--insecure", "--help-all"} <= few <= all_of_them
    assert len(few) < 25
    assert {"--give-up-after", "--threads", "--answer-timeout", "--tls-key"} <= all_of_them
    assert len(all_of_them) > 40


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--family", "smol"), "nothing says who signs for the family smol"),
        (("--root-key", KEY), "name the family with --family"),
        (("--family", "a/b", "--root-key", KEY), "family name 'a/b' cannot stand in a topic"),
        (("--family", "smol", "--root-key", "/no/such"), "is neither a public key nor a file"),
    ],
)
def test_a_family_and_its_root_key_belong_together(
    flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_edge(["ask", "hi", *flags]) == 2
    assert words in capsys.readouterr().err


def test_the_root_key_may_be_a_file_and_the_state_is_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "root.pub").write_text(KEY + "\n")
    settings = FamilyOptions(family="smol", root_key=str(tmp_path / "root.pub"))
    known = family_catalogue(settings)
    assert known is not None
    assert known.family == "smol"
    assert known.catalogue is None
    assert family_catalogue(FamilyOptions()) is None
    with pytest.raises(UsageError, match="holds no public key"):
        family_catalogue(FamilyOptions(family="smol", root_key=__file__))


@pytest.mark.usefixtures("no_home")
def test_a_user_without_a_home_has_to_say_where_the_state_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="this user has no home") as refused:
        family_catalogue(FamilyOptions(family="smol", root_key=KEY))
    assert "--state-dir" in refused.value.hint
    with pytest.raises(UsageError, match="this user has no home"):
        FamilySettings(family="smol", root_key=KEY).folder.exists()
    assert FamilySettings(family="smol", root_key=KEY, state_dir=tmp_path).folder == tmp_path
    assert family_catalogue(FamilyOptions(family="smol", root_key=KEY, state_dir=tmp_path)) is not None
