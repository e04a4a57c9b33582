"""OpenAI's client, Responses: its README's first example, function calling and structured outputs of its guides."""

import json

from harness import KEY, MODEL, URL, run
from openai import OpenAI
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


class CalendarEvent(BaseModel):
    name: str
    date: str
    participants: list[str] = Field(max_length=4)


def chat():
    instructions = "You are a coding assistant that talks like a pirate."
    first = client.responses.create(
        model=MODEL,
        instructions=instructions,
        input="How do I check if a Python object is an instance of a class?",
    )
    return first.output_text, client.responses.create(
        model=MODEL, previous_response_id=first.id, input="Thanks!"
    ).output_text


def stream():
    with client.responses.stream(
        model=MODEL, input="Write a one-sentence bedtime story about a unicorn."
    ) as events:
        return [event.type for event in events], events.get_final_response().output_text


def tools():
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


def structured():
    text = "Alice and Bob are going to a science fair on Friday."
    items = [
        {"role": "system", "content": "Extract the event information."},
        {"role": "user", "content": text},
    ]
    return client.responses.parse(model=MODEL, input=items, text_format=CalendarEvent).output_parsed


run(chat=chat, stream=stream, tools=tools, structured=structured)
