"""OpenAI's Agents SDK: a function tool, a stream and an output type, as its documents have them."""

import os

from harness import KEY, MODEL, URL, run
from pydantic import BaseModel, Field

os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = f"{URL}/v1", KEY
from agents import Agent, ModelSettings, Runner, function_tool, set_default_openai_api, set_tracing_disabled

set_tracing_disabled(disabled=True)
set_default_openai_api(os.environ.get("API", "responses"))


@function_tool
def get_weather(city: str) -> str:
    """Get the current weather information for a specified city."""
    return f"The weather in {city} is sunny."


class CalendarEvent(BaseModel):
    name: str
    date: str
    participants: list[str] = Field(max_length=4)


haiku = Agent(name="Assistant", instructions="You are a helpful assistant", model=MODEL)
weather = Agent(
    name="Hello world",
    instructions="You are a helpful agent.",
    tools=[get_weather],
    model=MODEL,
    model_settings=ModelSettings(tool_choice="required"),
)
calendar = Agent(
    name="Calendar extractor",
    instructions="Extract calendar events from text",
    output_type=CalendarEvent,
    model=MODEL,
)


async def chat():
    return (await Runner.run(haiku, "Write a haiku about recursion in programming.")).final_output


async def stream():
    result = Runner.run_streamed(haiku, input="Please tell me 5 jokes.")
    return [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]


async def tools():
    result = await Runner.run(weather, input="What's the weather in Tokyo?")
    assert any(item.type == "tool_call_output_item" for item in result.new_items), result.new_items
    return result.new_items


async def stream_tools():
    result = Runner.run_streamed(weather, input="What's the weather in Tokyo?")
    names = [event.name async for event in result.stream_events() if event.type == "run_item_stream_event"]
    assert "tool_output" in names, names
    return names


async def structured():
    return (await Runner.run(calendar, "Alice and Bob are going to a science fair on Friday.")).final_output


run(chat=chat, stream=stream, tools=tools, stream_tools=stream_tools, structured=structured)
