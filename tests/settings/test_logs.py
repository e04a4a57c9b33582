"""Log lines: their fields, their form for people and for programs, and the texts that they never contain."""

import io
import json
import logging
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.launcher import PrivateBroker
from flexspec_mq.daemon import logs
from flexspec_mq.daemon.logs import LogOptions
from flexspec_mq.daemon.main import run_main
from flexspec_mq.errors import LinkDown, LocalProtocolError, UsageError
from tests.integration.processes import ended, start, start_worker

PROMPT = "xyzzy plugh"
SAID = logging.getLogger("cloud_worker.worker")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.level, list(root.handlers))
    yield
    logs.reset()
    assert (root.level, root.handlers) == before


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    output = capsys.readouterr()
    assert output.out == ""
    return [json.loads(line) for line in output.err.splitlines()]


def configure(level: str = "info", style: str = "auto", **ids: str) -> None:
    logs.configure(LogOptions(log_level=level, log_format=style), **ids)


def test_lines_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    configure(worker="w1")
    SAID.info("session %s/%d: open, attempt %d", "truck", 17, 0)
    SAID.debug("too much")
    first, *more = lines(capsys)
    assert not more
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info",
        "logger": "cloud_worker.worker",
        "edge": "truck",
        "worker": "w1",
        "session": 17,
        "message": "session truck/17: open, attempt 0",
    }


@pytest.mark.parametrize(
    ("message", "arguments", "names"),
    [
        ("session %d: done", (5,), {"edge": "me", "session": 5}),
        ("session %s/%s cannot be computed", ("truck", 17), {"edge": "truck", "session": 17}),
        ("edge %s sent nonsense", ("truck",), {"edge": "truck"}),
        ("worker %s could not read it: %s", ("w2", "why"), {"edge": "me", "worker": "w2"}),
        ("left with %d messages", (3,), {"edge": "me"}),
        ("100 %", (), {"edge": "me"}),
    ],
)
def test_names_of_what_a_line_is_about(
    message: str, arguments: tuple[Any, ...], names: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    configure(edge="me")
    SAID.warning(message, *arguments)
    (line,) = lines(capsys)
    assert {key: line[key] for key in logs.NAMES if key in line} == names


def test_extras_with_other_names_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure(edge="me")
    SAID.warning("said", extra={"session": 3, "prompt": PROMPT})
    (line,) = lines(capsys)
    assert line["session"] == 3
    assert PROMPT not in str(line)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_people_at_a_terminal_read_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    configure(worker="w1")
    SAID.info("session %s/%d: open", "truck", 17)
    assert "session truck/17: open" in terminal.getvalue()
    assert "\033[" in terminal.getvalue()
    configure(style="json")
    SAID.info("again")
    assert json.loads(terminal.getvalue().splitlines()[-1])["message"] == "again"


def test_people_at_a_pipe_read_words_without_colours(capsys: pytest.CaptureFixture[str]) -> None:
    configure(style="human", worker="w1")
    SAID.info("session %s/%d: open", "truck", 17)
    said = capsys.readouterr().err
    assert "session truck/17: open" in said
    assert "edge=truck session=17 worker=w1" in said
    assert "\033[" not in said


@pytest.mark.parametrize("style", ["human", "json"])
def test_a_bug_shows_its_traceback_without_local_variables(
    style: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(style=style)

    def write(prompt: str) -> None:
        assert prompt
        raise ZeroDivisionError("no")

    try:
        write(PROMPT)
    except ZeroDivisionError:
        SAID.exception("it failed")
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert "ZeroDivisionError: no" in said
    assert PROMPT not in said


@pytest.mark.parametrize("style", ["human", "json"])
def test_an_error_that_a_user_can_meet_is_its_message(
    style: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    configure(style=style)
    SAID.error("the loop failed", exc_info=LinkDown("the broker is gone", hint="wait"))
    said = capsys.readouterr().err
    assert "the broker is gone" in said
    assert "LinkDown" not in said
    assert len(said.splitlines()) == 1
    assert caplog.records[-1].exc_info, "other handlers still see the traceback"
    SAID.error("the loop failed", exc_info=LocalProtocolError("our bug"))
    assert "LocalProtocolError" in capsys.readouterr().err
    configure("debug", style)
    SAID.error("the loop failed", exc_info=LinkDown("the broker is gone"))
    assert "LinkDown" in capsys.readouterr().err


def test_a_json_that_was_asked_for_holds_for_stages_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(style: str) -> int:
        def run(_argv: object) -> None:
            configure(style=style)
            with logs.logged_stages() as tell:
                tell("reading weights: 40 %")
            logs.tell("serving")
            raise UsageError("it broke", hint="mend it")

        return run_main(run, [])

    assert fail("json") == 2
    messages = [(line["level"], line["message"]) for line in lines(capsys)]
    assert messages == [
        ("info", "reading weights: 40 %"),
        ("info", "serving"),
        ("error", "it broke (mend it)"),
    ]
    assert fail("auto") == 2
    plain = "reading weights: 40 %\nserving\nerror: it broke\n  hint: mend it\n"
    assert capsys.readouterr().err == plain


async def test_the_lines_of_edge_and_worker_join_and_hold_no_text(
    mosquitto: PrivateBroker, tiny: Path, settings_folder: Path
) -> None:
    """Real daemons at level debug, every line of standard error; the edge is set up by a file."""
    (settings_folder / "edge.toml").write_text(
        f"broker = '127.0.0.1:{mosquitto.port}'\nversion = 'logs'\ndraft = '{tiny}'\n"
        "draft_length = 2\nlog_level = 'debug'\nlog_format = 'json'\n"
    )
    style = ("--log-level", "debug", "--log-format", "json")
    worker = await start_worker(mosquitto, "logw", "--target", str(tiny), "--version", "logs", *style)
    try:
        assert (await worker.event())["ready"] is True
        edge = await start("edge_node", "ask", PROMPT, "--edge", "loge", "--max-tokens", "8", "--events")
        finish = await edge.event(lambda event: event["type"] == "finish")
        assert len(finish["tokens"]) > 0
        code, said = await ended(edge)
        assert code == 0, said
        worker.send_signal(signal.SIGTERM)
        code, answered = await ended(worker)
        assert code == 0, answered
    finally:
        await worker.kill()
    of_edge = [json.loads(line) for line in said.splitlines()]
    of_worker = [json.loads(line) for line in answered.splitlines()]
    assert {line["edge"] for line in of_edge} == {"loge"}
    assert {line["worker"] for line in of_worker} == {"logw"}
    sessions = [
        {(line["edge"], line["session"]) for line in each if "session" in line}
        for each in (of_edge, of_worker)
    ]
    assert sessions[0] == sessions[1]
    assert len(sessions[0]) == 1
    assert "xyzzy" not in said + answered
