"""A cap on the bytes of a day: texts end with that reason, new ones are refused, wait or are drafted on alone."""

import asyncio
import time
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.launcher import PrivateBroker
from edge_node.limits import DailyData
from flexspec_mq import entropy
from flexspec_mq.chat.settings import ChatOptions
from flexspec_mq.chat.top import show
from flexspec_mq.controller.explain import limit_in_words
from flexspec_mq.daemon.dated import DAY
from flexspec_mq.energy.model import OVERHEAD_DOWN, OVERHEAD_UP
from tests.daemons import FakeDrafter, FakeEngine
from tests.edge_node.api.served import alone, content, events, said, served

LONG: dict[str, Any] = {"max_tokens": 4000, "ignore_eos": True, "seed": 3}
CAP = 60_000


class Clock:
    """The wall clock, some seconds away from the machine's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        at_noon = DAY / 2 - time.time() % DAY
        monkeypatch.setattr(entropy, "wall", lambda: time.time() + at_noon + self.ahead)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


async def test_texts_end_with_the_reason_and_the_cap_outlives_a_restart(
    mosquitto: PrivateBroker, tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    data = DailyData(CAP, tmp_path / "data" / "edge")
    async with served(mosquitto, engine=FakeEngine(lambda _: time.sleep(0.005)), data=data) as api:
        first = await api.chat(max_tokens=5)
        assert first.status_code == 200, first.text
        short = first.json()["usage"]["flexspec"]
        (kept,) = short["limits"]
        assert (kept["name"], kept["state"], kept["limit"]) == ("daily_data", "kept", 0.06)
        least = short["bytes_up"] + short["bytes_down"] + OVERHEAD_UP + OVERHEAD_DOWN
        assert least <= 1e6 * kept["value"] < data.count + 1
        told = events((await api.chat(**LONG, stream=True)).text)
        assert "".join(one["choices"][0]["delta"].get("content", "") for one in told[:-1])
        assert told[-1]["error"]["code"] == "daily_data"
        assert "0.06 MB of data of 20" in told[-1]["error"]["message"]
        assert CAP <= data.count < CAP + 10_000, "no more than what was under way"
        refused = await api.chat(**LONG)
        assert "00:00 UTC" in said(refused, 429, "daily_data")["message"]
        assert 0 < int(refused.headers["retry-after"]) <= DAY / 2
        ready = await api.get("/readyz")
        assert (ready.status_code, "are used up" in ready.json()["reason"]) == (503, True)
        await show(ChatOptions(url=api.url), once=True, as_json=False)
        assert limit_in_words(data.report()) in " ".join(capsys.readouterr().out.split())
    after = data.count
    again = DailyData(CAP, tmp_path / "data" / "edge")
    assert again.count == after
    async with served(mosquitto, data=again, drafter=FakeDrafter(1.0)) as api:
        said(await api.chat(**LONG), 429, "daily_data")
        with pytest.raises(openai.RateLimitError, match="are used up"):
            await api.client.chat.completions.create(
                model=api.version, messages=[{"role": "user", "content": "x"}]
            )
        choice = (await api.chat(**LONG, offline="provisional")).json()["choices"][0]
        assert choice["finish_reason"] == "provisional"
        assert choice["flexspec"]["provisional"]["text"]
        waits = asyncio.create_task(api.chat(max_tokens=20, seed=3, wait=60))
        await asyncio.sleep(0.1)
        assert not waits.done()
        clock.ahead = DAY
        assert content(await waits) == alone("hello", 3, 20)
        assert (await api.get("/readyz")).status_code == 200


@given(
    sizes=st.lists(
        st.tuples(st.integers(1, 3000), st.sampled_from(["goes on", "crashes", "stops"])), max_size=40
    )
)
def test_no_restart_makes_bytes_uncounted(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, str]]
) -> None:
    file = tmp_path_factory.mktemp("data") / "edge"
    data, carried, crashes, reached = DailyData(20_000, file), 0, 0, 0
    for size, then in sizes:
        reached += data.add(size)
        carried += size
        if then == "stops":
            data.save()
        if then != "goes on":
            data, crashes = DailyData(20_000, file), crashes + (then == "crashes")
        assert carried <= data.count <= carried + 200 * crashes
        assert bool(data.spent()) == (data.count >= 20_000) == (data.report().state == "exceeded")
    assert reached <= 1


def test_a_day_begins_by_the_date_and_not_by_a_clock_that_is_set_back(tmp_path: Path, clock: Clock) -> None:
    data = DailyData(100, tmp_path / "edge")
    assert data.add(100)
    clock.ahead = -2 * DAY
    assert data.spent()
    assert DailyData(100, tmp_path / "edge").spent()
    clock.ahead = DAY
    assert (data.spent(), data.count, data.add(99), data.add(1)) == ("", 0, False, True)
    (tmp_path / "edge").write_text("nonsense")
    assert DailyData(100, tmp_path / "edge").count == 0
