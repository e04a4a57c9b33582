"""OpenAI's client, chat completions: function calling and structured outputs, as its guides have them."""

import json

from harness import KEY, MODEL, URL, run
from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel, Field

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY)


class GetWeather(BaseModel):
    """Get current temperature for a given location."""

    location: str


class CalendarEvent(BaseModel):
    name: str
    date: str
    participants: list[str] = Field(max_length=4)


def chat():
    messages = [{"role": "user", "content": "Say this is a test"}]
    return client.chat.completions.create(model=MODEL, messages=messages).choices[0].message.content


def stream():
    messages = [{"role": "user", "content": "Say this is a test"}]
    with client.chat.completions.stream(model=MODEL, messages=messages) as events:
        return [event.delta for event in events if event.type == "content.delta"]


def tools():
    messages = [{"role": "user", "content": "What is the weather like in Paris today?"}]
    asked = {"model": MODEL, "messages": messages, "tools": [pydantic_function_tool(GetWeather)]}
    message = client.chat.completions.parse(**asked, tool_choice="required").choices[0].message
    messages.append(message)
    for call in message.tool_calls:
        result = json.dumps({"location": call.function.parsed_arguments.location, "temperature": 14})
        messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return message.tool_calls, client.chat.completions.create(**asked).choices[0].message


def stream_tools():
    messages = [{"role": "user", "content": "What is the weather like in Paris today?"}]
    asked = {"model": MODEL, "messages": messages, "tools": [pydantic_function_tool(GetWeather)]}
    with client.chat.completions.stream(**asked, tool_choice="required") as events:
        return events.get_final_completion().choices[0].message.tool_calls[0].function.parsed_arguments


def structured():
    text = "Alice and Bob are going to a science fair on Friday."
    messages = [
        {"role": "system", "content": "Extract the event information."},
        {"role": "user", "content": text},
    ]
    return (
        client.chat.completions.parse(model=MODEL, messages=messages, response_format=CalendarEvent)
        .choices[0]
        .message.parsed
    )


run(chat=chat, stream=stream, tools=tools, stream_tools=stream_tools, structured=structured)
