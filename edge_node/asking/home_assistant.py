"""The node's announcement to a Home Assistant, by its MQTT discovery of devices."""

from typing import Any

import msgspec

import flexspec_mq
from flexspec_mq import topics
from flexspec_mq.transport.base import Outbound

HOME_ASSISTANT = "homeassistant/status"
"""Where Home Assistant says that it has been started."""
_MOST_STATE = 255
"""Characters of a state, and of what is typed into a text entity."""
_DAY = 86_400


def announcement(edge: str, user: str | None, status: str) -> Outbound:
    """The retained document by which Home Assistant knows the node, or with which it forgets it.

    Args:
        edge: name of the node.
        user: MQTT user as which Home Assistant asks; None has it forget the node.
        status: topic of the node's status.
    """
    topic = f"homeassistant/device/flexspec-{edge}/config"
    payload = b"" if user is None else msgspec.json.encode(_document(edge, user, status))
    return Outbound(topic, payload, 1, retain=True)


def _document(edge: str, user: str, status: str) -> dict[str, Any]:
    software = flexspec_mq.__version__
    answer = topics.answer_topic(user, edge)
    shown = "value_json.text if value_json.text is defined else value_json.error.message"

    def entity(name: str, platform: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "platform": platform, "unique_id": f"flexspec-{edge}-{name.lower()}", **more}

    def figure(name: str, field: str, platform: str = "sensor", **more: Any) -> dict[str, Any]:
        value = {"state_topic": status, "value_template": f"{{{{ {field} }}}}"}
        return entity(name, platform, **value, entity_category="diagnostic", **more)

    connection = "value_json.connection"
    ready = "'ON' if value_json.ready else 'OFF'"
    entities = (
        figure("Ready", ready, "binary_sensor", device_class="connectivity"),
        figure(
            "Connection", f"{connection}.state if {connection} else 'offline'", icon="mdi:cloud-check-variant"
        ),
        figure("Waiting", f"{connection}.waiting if {connection} else 0", unit_of_measurement="texts"),
        figure("Model", "value_json.model", icon="mdi:brain"),
        entity(
            "Ask",
            "text",
            command_topic=topics.ask_topic(edge, user),
            command_template=f'{{"prompt": {{{{ value | tojson }}}}, "keep": {_DAY}}}',
            min=1,
            max=_MOST_STATE,
            icon="mdi:comment-question",
        ),
        entity(
            "Answer",
            "sensor",
            state_topic=answer,
            value_template=f"{{{{ ({shown})[:{_MOST_STATE}] }}}}",
            json_attributes_topic=answer,
            json_attributes_template=f"{{{{ {{'text': {shown}}} | tojson }}}}",
            icon="mdi:comment-text",
        ),
    )
    return {
        "device": {
            "identifiers": [f"flexspec-{edge}"],
            "name": f"FlexSpec {edge}",
            "manufacturer": "FlexSpec MQ",
            "model": "edge node",
            "sw_version": software,
        },
        "origin": {"name": "FlexSpec MQ", "sw_version": software},
        "availability": [
            {
                "topic": status,
                "value_template": "{{ value_json.state }}",
                "payload_available": "online",
                "payload_not_available": "gone",
            }
        ],
        "qos": 1,
        "components": {str(each["name"]).lower(): each for each in entities},
    }
