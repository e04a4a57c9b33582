"""OpenAI's client, by chat completions and by Responses: README, function calling, structured outputs of its guides."""

import json

from harness import KEY, MODEL, URL, run
from openai import OpenAI, pydantic_function_tool
from pydantic import BaseModel, Field

client = OpenAI(base_url=f"{URL}/v1", api_key=KEY)

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get current temperature for a given location.",
    "parameters": {
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "City and country e.g. Bogotá, Colombia"}
        },
        "required": ["location"],
        "additionalProperties": False,
    },
    "strict": True,
}


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


def chat_responses():
    instructions = "You are a coding assistant that talks like a pirate."
    first = client.responses.create(
        model=MODEL,
        instructions=instructions,
        input="How do I check if a Python object is an instance of a class?",
    )
    return first.output_text, client.responses.create(
        model=MODEL, previous_response_id=first.id, input="Thanks!"
    ).output_text


def stream_responses():
    with client.responses.stream(
        model=MODEL, input="Write a one-sentence bedtime story about a unicorn."
    ) as events:
        return [event.type for event in events], events.get_final_response().output_text


def tools_responses():
    items = [{"role": "user", "content": "What is the weather like in Paris today?"}]
    response = client.responses.create(model=MODEL, input=items, tools=[WEATHER], tool_choice="required")
    items += response.output
    for call in response.output:
        if call.type == "function_call":
            output = {"location": json.loads(call.arguments)["location"], "temperature": 14}
            items.append(
                {"type": "function_call_output", "call_id": call.call_id, "output": json.dumps(output)}
            )
    return response.output, client.responses.create(model=MODEL, input=items, tools=[WEATHER]).output


def structured_responses():
    text = "Alice and Bob are going to a science fair on Friday."
    items = [
        {"role": "system", "content": "Extract the event information."},
        {"role": "user", "content": text},
    ]
    return client.responses.parse(model=MODEL, input=items, text_format=CalendarEvent).output_parsed


run(
    chat=chat,
    stream=stream,
    tools=tools,
    stream_tools=stream_tools,
    structured=structured,
    chat_responses=chat_responses,
    stream_responses=stream_responses,
    tools_responses=tools_responses,
    structured_responses=structured_responses,
)
