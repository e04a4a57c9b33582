"""LiteLLM, by its pages on OpenAI-compatible endpoints, function calling and JSON mode."""

import json

from harness import KEY, MODEL, URL, run
from litellm import completion, stream_chunk_builder
from pydantic import BaseModel, Field

SERVER = {"model": f"openai/{MODEL}", "api_key": KEY, "api_base": f"{URL}/v1"}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["location"],
        },
    },
}
ASK = [{"role": "user", "content": "What's the weather like in San Francisco, Tokyo, and Paris?"}]


class CalendarEvent(BaseModel):
    name: str
    date: str
    participants: list[str] = Field(max_length=4)


def chat():
    messages = [{"role": "user", "content": "Hey, how's it going?"}]
    return completion(**SERVER, messages=messages).choices[0].message.content


def stream():
    messages = [{"role": "user", "content": "Hey, how's it going?"}]
    return [part.choices[0].delta.content for part in completion(**SERVER, messages=messages, stream=True)]


def tools():
    first = completion(**SERVER, messages=ASK, tools=[TOOL], tool_choice="required").choices[0].message
    messages = [*ASK, first]
    for call in first.tool_calls:
        content = json.dumps(
            {"location": json.loads(call.function.arguments)["location"], "temperature": "72"}
        )
        messages.append(
            {"tool_call_id": call.id, "role": "tool", "name": call.function.name, "content": content}
        )
    return first.tool_calls, completion(**SERVER, messages=messages, tools=[TOOL]).choices[0].message.content


def stream_tools():
    parts = list(completion(**SERVER, messages=ASK, tools=[TOOL], tool_choice="required", stream=True))
    return json.loads(
        stream_chunk_builder(parts, messages=ASK).choices[0].message.tool_calls[0].function.arguments
    )


def structured():
    text = "Alice and Bob are going to a science fair on Friday."
    messages = [
        {"role": "system", "content": "Extract the event information."},
        {"role": "user", "content": text},
    ]
    answer = completion(**SERVER, messages=messages, response_format=CalendarEvent)
    return CalendarEvent.model_validate_json(answer.choices[0].message.content)


run(chat=chat, stream=stream, tools=tools, stream_tools=stream_tools, structured=structured)
