"""Who may use the API, over real sockets: each refusal is counted, and said in the log with who it was."""

import asyncio
import logging
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import openai
import pytest

from broker.launcher import PrivateBroker
from edge_node.api.settings import ApiSettings
from edge_node.api.views.events import STREAMS
from flexspec_mq.errors import UsageError
from tests.daemons import PATIENCE, until
from tests.edge_node.api.served import Served, said, served, waiting_engine

PAGE = {"origin": "https://page.example"}
ASKS = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


async def refused(api: Served, reason: str) -> float:
    return await api.metric(f'flexspec_edge:refused_total{{reason="{reason}"}}')


def lines(caplog: pytest.LogCaptureFixture, reason: str) -> list[str]:
    logged = [one.getMessage() for one in caplog.records if one.name == "edge_node.api.http.auth"]
    return [line for line in logged if f" was refused, {reason}: " in line]


async def test_a_page_of_a_foreign_origin_has_nothing_done(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    origins = "https://evil.example", "http://localhost:3000", "null", "http://127.0.0.1"
    async with served(mosquitto) as api:
        for number, origin in enumerate(origins, 1):
            for method, path in (
                ("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/metrics"),
                ("OPTIONS", "/v1/completions"),
            ):  # fmt: skip
                answer = await api.http.request(
                    method, f"{api.url}{path}", headers={"origin": origin, **ASKS}
                )
                assert origin in said(answer, 403, "wrong_origin")["message"]
                assert "access-control-allow-origin" not in answer.headers
            assert await refused(api, "wrong_origin") == 4 * number
        assert api.daemons[0].worker.machine.counters.opened == 0
    (line,) = lines(caplog, "wrong_origin")
    assert line.startswith("client 127.0.0.1 was refused")
    assert origins[0] in line


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_a_page_of_another_site_that_sends_no_origin_holds_no_place_and_reads_no_answer(
    mosquitto: PrivateBroker, site: str
) -> None:
    """As a browser sends an image's GET, or that of `fetch` in mode `no-cors`: the page sees no answer of it."""
    foreign = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "accept": "text/event-stream"}
    own = {**foreign, "sec-fetch-site": "same-origin"}

    async def asked(path: str, headers: dict[str, str]) -> tuple[int, str]:
        async with api.http.stream("GET", f"{api.url}{path}", headers=headers) as answer:
            return answer.status_code, await anext(answer.aiter_text())

    async def is_read() -> bool:
        (kept,) = (await api.get("/v1/outbox", {"sec-fetch-site": "none"})).json()["data"]
        return bool(kept["read"])

    engine = waiting_engine()
    async with served(mosquitto, engine=engine) as api, AsyncExitStack() as held:
        for _ in range(STREAMS):
            answer = await held.enter_async_context(
                api.http.stream("GET", f"{api.url}/v1/events", headers=foreign)
            )
            assert answer.status_code == 403
        assert (await asked("/v1/events", own))[0] == 200, "there is a place"
        asking = asyncio.create_task(api.chat(max_tokens=5, headers={"idempotency-key": "k"}))
        await until(lambda: api.node.sessions == 1)
        asking.cancel()
        engine.gate.set()
        await until(lambda: not api.node.sessions)
        assert not await is_read()
        for path in ("/v1/outbox/k", "/v1/outbox", "/v1/models", "/metrics"):
            status, body = await asked(path, foreign)
            assert (status, "wrong_origin" in body) == (403, True)
        assert not await is_read()
        for path in ("/", "/page/page.css", "/healthz", "/readyz"):  # a link to the page may be anywhere
            assert (await api.get(path, foreign)).status_code == 200
        assert await refused(api, "wrong_origin") == STREAMS + 4
        assert (await api.get("/v1/outbox/k", own)).status_code == 200
        async with asyncio.timeout(PATIENCE):
            while not await is_read():  # noqa: ASYNC110  the journal's thread writes it
                await asyncio.sleep(0.01)


async def test_pages_that_are_named_or_of_this_very_host_may(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, api_cors_origins=("https://page.example",), api_key="hush") as api:
        for origin, status in (
            ("https://page.example", 200), ("https://PAGE.example", 200), (api.url, 200),
            (f"http://localhost:{api.port}", 403), ("https://page.example:8443", 403),
            ("https://page.example.evil", 403),
        ):  # fmt: skip
            assert (await api.get("/v1/models", {"origin": origin, **api.key})).status_code == status, origin
        url = f"{api.url}/v1/chat/completions"
        may = await api.http.options(url, headers={**PAGE, **ASKS})
        assert may.status_code == 200
        assert may.headers["access-control-allow-origin"] == "https://page.example"
        assert "authorization" in may.headers["access-control-allow-headers"]
        other = await api.http.options(url, headers={**ASKS, "origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
        for headers, status in (({**PAGE, **api.key}, 200), (PAGE, 401)):  # its script can read errors too
            answer = await api.chat(max_tokens=2, headers=headers)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == "https://page.example"
            assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    async with served(mosquitto, api_cors_origins=("*",)) as api:
        any_page = {"origin": "https://any.example", "sec-fetch-site": "cross-site"}
        assert (await api.get("/v1/models", any_page)).status_code == 200


async def test_another_host_name_is_refused_unless_it_is_named(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(mosquitto, api_hosts=("host.docker.internal",)) as api:
        for host in (
            "evil.example", "evil.example:80", "192.0.2.1", "127.0.0.1.evil.example", "docker.internal",
            "host.docker.internal.evil.example",
        ):  # fmt: skip
            said(await api.get("/v1/models", {"host": host}), 403, "wrong_host")
            # A name that was made to lead here, whatever its pages say.
            said(await api.get("/v1/models", {"host": host, "origin": f"http://{host}"}), 403, "wrong_host")
        for host in ("localhost", "localhost:80", "127.0.0.1", "[::1]:80", "HOST.docker.internal:8080"):
            assert (await api.get("/v1/models", {"host": host})).status_code == 200
        assert await refused(api, "wrong_host") == 12
    assert "this API is not evil.example" in lines(caplog, "wrong_host")[0]


async def test_a_wrong_key_is_counted_each_time_and_told_once(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with served(mosquitto, api_key="hush") as api:
        for given in (None, "Bearer hus", "Bearer guess", "hush", "Basic hush"):
            headers: dict[str, str] = {} if given is None else {"authorization": given}
            for path in ("/v1/models", "/metrics", "/v1/nothing"):
                said(await api.get(path, headers), 401, "invalid_api_key")
            said(await api.chat(headers=headers), 401, "invalid_api_key")
        for method, path in (("GET", ""), ("GET", "/x"), ("POST", "/x"), ("DELETE", "/x")):
            answer = await api.http.request(method, f"{api.url}/v1/outbox{path}")
            said(answer, 401, "invalid_api_key")
        assert (await api.get("/v1/outbox", api.key)).json() == {"data": []}
        assert await refused(api, "invalid_api_key") == 24
        for path in ("/healthz", "/readyz", "/openapi.json"):
            assert (await api.get(path)).status_code == 200
        assert (await api.get("/metrics", api.key)).status_code == 200
        assert (await api.client.models.list()).data
        with pytest.raises(openai.AuthenticationError):
            await api.client.with_options(api_key="wrong").models.list()
    (line,) = lines(caplog, "invalid_api_key")
    assert "guess" not in line
    assert "hush" not in line


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "edge.lan"])  # noqa: S104
def test_beyond_this_machine_only_in_as_many_words_and_with_a_key(host: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("hush\n")
    with pytest.raises(UsageError, match="without TLS"):
        ApiSettings(api_host=host, api_key="hush").for_serving()
    with pytest.raises(UsageError, match="could use the API, as it asks for no key") as error:
        ApiSettings(api_host=host, api_insecure_anywhere=True).for_serving()
    assert "--api-key-file" in error.value.hint
    more: dict[str, Any]
    for more in ({"api_key": "hush"}, {"api_key_file": key}):
        settings = ApiSettings(api_host=host, api_insecure_anywhere=True, **more).for_serving()
        assert settings.api_key == "hush"
        assert not settings.loopback


@pytest.mark.parametrize(
    "wrong",
    [
        {"api_hosts": ("http://x",)}, {"api_hosts": ("x:80",)}, {"api_cors_origins": ("page.example",)},
        {"api_cors_origins": ("https://x/",)}, {"api_port": 70_000}, {"api_timeout": float("nan")},
        {"api_texts": 0}, {"api_key": " "}, {"api_port": -1}, {"api_client_connections": 0},
        {"api_client_connections": 2**16}, {"outbox_texts": 0}, {"outbox_mb": 0.0}, {"outbox_for": 0.0},
        {"outbox_age": 0.0}, {"api_max_tokens": -1}, {"api_timeout": 0.0},
    ],
)  # fmt: skip
def test_settings_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        ApiSettings(**wrong).for_serving()


def test_names_and_origins_in_small_letters_and_a_key_that_is_never_shown() -> None:
    known = ApiSettings(
        api_hosts=("Edge-1.lan", "fe80::1"), api_cors_origins=("*", "http://localhost:3000"), api_key="hush"
    ).for_serving()
    assert known.api_hosts == ("edge-1.lan", "fe80::1")
    assert "hush" not in repr(known)
    assert [ApiSettings(api_texts=texts).max_requests for texts in (1, 200)] == [512, 800]
