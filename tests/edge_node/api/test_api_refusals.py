"""Who is kept out of the API, over real sockets: each refusal is counted, and said in the log with who it was."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from edge_node.api.settings import ApiSettings
from flexspec_mq.errors import UsageError
from tests.daemons import until
from tests.edge_node.api.served import Served, served
from tests.edge_node.api.test_api_connections import HALF, holding, is_over

if TYPE_CHECKING:
    from pathlib import Path

    from broker.launcher import PrivateBroker

SLOW_BODY = (
    b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer hush\r\n"
    b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n" + b" " * 800
)
BEYOND: dict[str, Any] = {"api_host": "0.0.0.0", "api_key": "hush", "api_insecure_anywhere": True}  # noqa: S104


async def refused(api: Served, reason: str) -> float:
    return await api.metric(f'flexspec_edge_refused_total{{reason="{reason}"}}')


def lines(caplog: pytest.LogCaptureFixture, reason: str) -> list[str]:
    said = [one.getMessage() for one in caplog.records if one.name == "edge_node.api.auth"]
    return [line for line in said if f" was refused, {reason}: " in line]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:3000", "null", "http://127.0.0.1"]
)
async def test_a_page_of_a_foreign_origin_has_nothing_done(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture, origin: str
) -> None:
    async with served(mosquitto) as api:
        for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions"), ("GET", "/metrics")):
            answer = await api.http.request(method, f"{api.url}{path}", headers={"origin": origin})
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin")
            assert "access-control-allow-origin" not in answer.headers
        assert await refused(api, "wrong_origin") == 3
        assert api.daemons[0].worker.machine.counters.opened == 0
    (line,) = lines(caplog, "wrong_origin")
    assert line.startswith("client 127.0.0.1 was refused")
    assert origin in line


async def test_pages_that_are_named_or_of_this_very_host_may(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, api_cors_origins=("https://page.example",)) as api:
        port = api.url.rpartition(":")[2]
        for origin, status in (
            ("https://page.example", 200), ("https://PAGE.example", 200), (api.url, 200),
            (f"http://localhost:{port}", 403), ("https://page.example:8443", 403), ("https://page.example.evil", 403),
        ):  # fmt: skip
            answer = await api.http.get(f"{api.url}/v1/models", headers={"origin": origin})
            assert answer.status_code == status, origin
    async with served(mosquitto, api_cors_origins=("*",)) as api:
        answer = await api.http.get(f"{api.url}/v1/models", headers={"origin": "https://any.example"})
        assert answer.status_code == 200


async def test_a_name_that_was_made_to_lead_here_is_refused_whatever_its_pages_say(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(mosquitto) as api:
        rebound = {"host": "evil.example:8080", "origin": "http://evil.example:8080"}
        answer = await api.http.get(f"{api.url}/v1/models", headers=rebound)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_host")
        assert await refused(api, "wrong_host") == 1
    assert "this API is not evil.example" in lines(caplog, "wrong_host")[0]


async def test_a_wrong_key_is_counted_each_time_and_told_once(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with served(mosquitto, api_key="hush") as api:
        for _ in range(50):
            answer = await api.http.get(f"{api.url}/v1/models", headers={"authorization": "Bearer guess"})
            assert answer.status_code == 401
        assert await refused(api, "invalid_api_key") == 50
    (line,) = lines(caplog, "invalid_api_key")
    assert "guess" not in line
    assert "hush" not in line


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "edge.lan"])  # noqa: S104
def test_beyond_this_machine_a_key_is_needed(host: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("hush\n")
    with pytest.raises(UsageError, match="could use the API, as it asks for no key") as error:
        ApiSettings(api_host=host, api_insecure_anywhere=True).for_serving()
    assert "--api-key-file" in error.value.hint
    for more in ({"api_key": "hush"}, {"api_key_file": key}):
        settings = ApiSettings(api_host=host, api_insecure_anywhere=True, **more).for_serving()
        assert settings.api_key == "hush"


async def test_one_address_cannot_take_the_connections_of_others(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        served(mosquitto, **BEYOND, api_client_connections=5) as api,
        holding(api, 5, SLOW_BODY, "127.0.0.9") as busy,
    ):
        await until(lambda: api.api.bodies.held == 5 * 800)
        for _ in range(3):
            async with holding(api, 1, SLOW_BODY, "127.0.0.9") as [peer]:
                await is_over(peer)
        assert (await api.http.get(f"{api.url}/v1/models", headers=api.key)).status_code == 200
        assert await refused(api, "too_many_connections") == 3
        assert not any(reader.at_eof() for reader, _ in busy)
    assert lines(caplog, "too_many_connections")[0].startswith("client 127.0.0.9 was refused")


async def test_of_one_address_those_that_wait_for_a_request_go_first(mosquitto: PrivateBroker) -> None:
    async with served(mosquitto, **BEYOND, api_client_connections=5, head_timeout=30.0) as api:
        async with (
            holding(api, 1, HALF, "127.0.0.8") as [other],
            holding(api, 5, HALF, "127.0.0.9") as [first, *_],
            httpx2.AsyncClient(
                transport=httpx2.AsyncHTTPTransport(local_address="127.0.0.9"), trust_env=False
            ) as http,
        ):
            assert (await http.get(f"{api.url}/v1/models", headers=api.key)).status_code == 200
            await is_over(first)
            assert not other[0].at_eof()
        assert await refused(api, "head_timeout") == 1


async def test_on_loopback_all_have_one_address_and_the_bound_of_all_is_theirs(
    mosquitto: PrivateBroker,
) -> None:
    async with served(mosquitto, api_client_connections=2) as api, holding(api, 20, SLOW_BODY):
        assert (await api.http.get(f"{api.url}/v1/models")).status_code == 200


async def test_long_bodies_are_bounded_all_together(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(mosquitto, max_bodies=1000) as api:
        body = {"prompt": "the " * 100, "max_tokens": 3}
        async with holding(api, 1, SLOW_BODY) as [(_, writer)]:
            held = api.api.bodies
            await until(lambda: held.held == 800)
            answer = await api.post("/v1/completions", body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
            assert answer.headers["retry-after"] == "1"
            assert (await api.post("/v1/completions", {"prompt": "a", "max_tokens": 3})).status_code == 200
            assert (await api.http.get(f"{api.url}/readyz")).status_code == 200
            writer.transport.abort()
            await until(lambda: held.held == 0)
        assert (await api.post("/v1/completions", body)).status_code == 200
        assert await refused(api, "overloaded") == 1
    assert "too many long requests" in lines(caplog, "overloaded")[0]


async def test_a_body_that_is_too_long_or_too_slow_is_told(
    mosquitto: PrivateBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with served(mosquitto, max_body=500, body_timeout=0.2) as api:
        async with holding(api, 1, SLOW_BODY.replace(b": 1000", b": 2000")) as [(reader, _)]:
            assert (await reader.readline()).startswith(b"HTTP/1.1 413")
        async with holding(api, 1, SLOW_BODY.replace(b": 1000", b": 400")[:200]) as [(reader, _)]:
            assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        assert await refused(api, "body_too_long") == 1
        assert await refused(api, "body_timeout") == 1
        assert api.api.bodies.held == 0
    assert lines(caplog, "body_too_long")
    assert lines(caplog, "body_timeout")
