"""paho-mqtt asks by MQTT 5 with Response Topic and Correlation Data, and by 3.1.1 with an id in JSON."""

import json
import os
import queue
import uuid

from harness import run
from paho.mqtt import client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

HOST, _, PORT = os.environ["MQTT"].partition(":")
ASK, ANSWERS = f"f1/ask/{os.environ['EDGE']}", f"f1/answer/anybody/{os.environ['EDGE']}"
MOVIE = {
    "type": "object",
    "properties": {"title": {"type": "string", "maxLength": 40}, "year": {"type": "integer"}},
    "required": ["title", "year"],
    "additionalProperties": False,
}
LAMP = {
    "name": "turn_on",
    "parameters": {
        "type": "object",
        "properties": {"room": {"enum": ["kitchen", "hall"]}},
        "required": ["room"],
    },
}


def ask(payload, protocol=mqtt.MQTTv5):
    """The messages of an answer, the last one first."""
    came, mark, topic = queue.Queue(), uuid.uuid4().hex, f"{ANSWERS}/{uuid.uuid4().hex}"
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=protocol)
    client.on_subscribe = lambda *_: came.put(None)
    client.on_message = lambda _client, _data, message: came.put(message)
    client.connect(HOST, int(PORT))
    client.subscribe(topic, qos=1)
    client.loop_start()
    came.get(timeout=10)
    if protocol == mqtt.MQTTv5:
        properties = Properties(PacketTypes.PUBLISH)
        properties.ResponseTopic, properties.CorrelationData = topic, mark.encode()
        client.publish(ASK, json.dumps(payload), qos=1, properties=properties)
    else:
        client.publish(ASK, json.dumps({**payload, "id": mark, "response_topic": topic}), qos=1)
    found = []
    while not found or not found[0]["done"]:
        message = came.get(timeout=300)
        found.insert(0, json.loads(message.payload))
        same = (
            message.properties.CorrelationData == mark.encode()
            if protocol == mqtt.MQTTv5
            else found[0]["id"] == mark
        )
        assert same, (message.topic, found[0])
        assert "error" not in found[0], found[0]
    client.loop_stop()
    return found


def chat():
    return [
        ask({"prompt": "Why is the sky blue?", "max_tokens": 40}, version)[0]["text"]
        for version in (mqtt.MQTTv5, mqtt.MQTTv311)
    ]


def stream():
    pieces = ask({"prompt": "Why is the sky blue?", "max_tokens": 40, "stream": True})
    assert len(pieces) > 2, pieces
    return "".join(piece.get("delta", "") for piece in reversed(pieces))


def structured():
    movie = json.loads(ask({"prompt": "Name a movie.", "schema": MOVIE})[0]["text"])
    assert type(movie["title"]) is str and type(movie["year"]) is int, movie
    return movie


def tools():
    tool = {"type": "function", "function": LAMP}
    call = ask({"prompt": "Light in the kitchen, please.", "tools": [tool], "tool_choice": "required"})[0][
        "tool_calls"
    ][0]
    assert json.loads(call["function"]["arguments"])["room"] in {"kitchen", "hall"}, call
    return call


run(chat=chat, stream=stream, structured=structured, tools=tools)
