"""The node's announcement to Home Assistant, by what its documentation says of MQTT discovery."""

import json
from typing import Any

import jinja2
import msgspec
import pytest

from broker.launcher import PrivateBroker
from edge_node.asking.home_assistant import announcement
from edge_node.asking.settings import AskSettings
from flexspec_mq import topics
from flexspec_mq.errors import UsageError
from flexspec_mq.transport.arguments import LinkOptions
from schemas.asking import AskedStatus
from tests.edge_node.asking.asked import Asker, asked

COMMON = {
    *("name", "platform", "unique_id", "icon", "entity_category", "state_topic", "value_template"),
    *("json_attributes_topic", "json_attributes_template"),
}
"""Options of all entities that are used here."""
PLATFORMS = {
    "binary_sensor": ({"state_topic"}, {"device_class"}),
    "sensor": ({"state_topic"}, {"state_class", "unit_of_measurement"}),
    "text": ({"command_topic"}, {"command_template", "min", "max"}),
}
"""Options that each needs, and others that it knows."""


TEMPLATES = jinja2.Environment(undefined=jinja2.StrictUndefined)  # noqa: S701  Home Assistant escapes nothing


def rendered(template: str, **known: Any) -> str:
    """A template as Home Assistant renders it, as far as we use its language."""
    return TEMPLATES.from_string(template).render(known)


def test_the_document_is_one_of_device_discovery() -> None:
    sent = announcement("truck-17", "hass", topics.asked_topic("truck-17"))
    assert (sent.topic, sent.retain, sent.qos) == ("homeassistant/device/flexspec-truck-17/config", True, 1)
    document = json.loads(sent.payload)
    assert set(document) == {"device", "origin", "availability", "qos", "components"}
    assert document["device"]["identifiers"] == ["flexspec-truck-17"]
    assert document["origin"]["name"]
    (availability,) = document["availability"]
    assert set(availability) == {"topic", "value_template", "payload_available", "payload_not_available"}
    unique = [entity["unique_id"] for entity in document["components"].values()]
    assert len(set(unique)) == len(unique) == 6
    for entity in document["components"].values():
        needs, knows = PLATFORMS[entity["platform"]]
        assert needs <= set(entity) <= needs | knows | COMMON
    gone = json.loads(msgspec.json.encode(AskedStatus(state="gone")))
    for name, state in {"connection": "offline", "waiting": "0", "ready": "OFF"}.items():
        assert rendered(document["components"][name]["value_template"], value_json=gone) == state
    text = document["components"]["ask"]
    assert 0 < text["min"] < text["max"] <= 255
    shows = document["components"]["answer"]["value_template"]
    assert rendered(shows, value_json={"text": "x" * 300}) == "x" * 255
    asks = json.loads(rendered(text["command_template"], value='say "hi" \\ é\n'))
    assert asks["prompt"] == 'say "hi" \\ é\n'
    assert announcement("truck-17", None, "").payload == b""


async def test_home_assistant_asks_and_shows_the_answer(mosquitto: PrivateBroker) -> None:
    """It finds the node, asks by its text entity, shows the newest answer, and sees it go."""
    settings = {"home_assistant": "hass"}
    async with Asker(mosquitto, "anybody", five=False) as hass:
        await hass.listen("homeassistant/device/+/config")
        await hass.listen("f1/answer/hass/#")
        async with asked(mosquitto, asks=settings, edge={"edge": "ha-node"}) as node:
            topic, document, _, _ = await hass.message()
            assert topic == "homeassistant/device/flexspec-ha-node/config"
            entities, (availability,) = document["components"], document["availability"]
            await hass.listen(availability["topic"])
            _, status, _, retained = await hass.message()
            assert retained
            assert (
                rendered(availability["value_template"], value_json=status)
                == availability["payload_available"]
            )
            states = {
                name: rendered(entity["value_template"], value_json=status)
                for name, entity in entities.items()
                if entity.get("state_topic") == availability["topic"]
            }
            assert states["model"] == node.served.version
            assert states["ready"] == "ON"
            assert (states["connection"], states["waiting"]) == ("online", "0")
            ask, answer = entities["ask"], entities["answer"]
            assert topics.is_answer_topic(answer["state_topic"], "hass", "ha-node")
            await hass.publish(ask["command_topic"], rendered(ask["command_template"], value="hello"))
            topic, body, _, _ = await hass.message()
            while topic != answer["state_topic"]:
                topic, body, _, _ = await hass.message()
            shown = rendered(answer["value_template"], value_json=body)
            assert 0 < len(shown) <= 255
            assert body["text"].startswith(shown)
            whole = json.loads(rendered(answer["json_attributes_template"], value_json=body))
            assert whole == {"text": body["text"]}
            failed = {"error": {"message": "no worker"}}
            assert rendered(answer["value_template"], value_json=failed) == "no worker"
            await hass.publish("f1/ask/ha-node/hass", {"clear": True})
            await hass.publish("homeassistant/status", "online")
        while (
            rendered(availability["value_template"], value_json=status)
            != availability["payload_not_available"]
        ):
            topic, body, _, _ = await hass.message()
            status = body if topic == availability["topic"] else status
        async with asked(mosquitto, edge={"edge": "ha-node"}):
            while (topic, body) != ("homeassistant/device/flexspec-ha-node/config", {}):
                topic, body, _, _ = await hass.message()
        await hass.publish("f1/a/ha-node", b"", retain=True)


@pytest.mark.parametrize(
    ("settings", "ephemeral", "edge", "words"),
    [
        ({"home_assistant": "hass", "mqtt_ask": False}, False, "e", "home_assistant needs mqtt_ask"),
        ({"home_assistant": "hass"}, True, "e", "needs a name of the node"),
        ({"home_assistant": "hass"}, False, "a.b", "without dots"),
        ({"home_assistant": "a/b"}, False, "e", "cannot stand in a topic"),
        ({"ask_username": "me"}, False, "e", "need ask_broker"),
        ({"ask_broker": "nowhere"}, False, "e", "nowhere"),
        ({"ask_texts": 0}, False, "e", "ask_texts 0 is less than 1"),
        ({"ask_per_minute": 0.0}, False, "e", "ask_per_minute"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    settings: dict[str, Any], ephemeral: bool, edge: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        AskSettings(**{"mqtt_ask": True, **settings}).link(edge, LinkOptions(), ephemeral=ephemeral)
