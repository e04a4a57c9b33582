"""AutoGen's AssistantAgent: the examples of its own pages with a tool, a stream and an output type."""

import json
from typing import Literal

from autogen_agentchat.agents import AssistantAgent
from autogen_core import CancellationToken
from autogen_core.models import UserMessage
from autogen_core.tools import FunctionTool
from autogen_ext.models.openai import OpenAIChatCompletionClient
from harness import KEY, MODEL, URL, run
from pydantic import BaseModel

INFO = {
    "vision": False,
    "function_calling": True,
    "json_output": True,
    "family": "unknown",
    "structured_output": True,
}


class AgentResponse(BaseModel):
    thoughts: str
    response: Literal["happy", "sad", "neutral"]


async def get_weather(city: str) -> str:
    """Get the weather for a given city."""
    return f"The weather in {city} is 73 degrees and Sunny."


def agent(**more):
    client = OpenAIChatCompletionClient(model=MODEL, base_url=f"{URL}/v1", api_key=KEY, model_info=INFO)
    return AssistantAgent("assistant", model_client=client, **more)


async def chat():
    return (await agent().run(task="Name two cities in North America.")).messages[-1]


async def stream():
    return [
        message
        async for message in agent(model_client_stream=True).run_stream(
            task="Name two cities in North America."
        )
    ]


async def tools():
    client = OpenAIChatCompletionClient(model=MODEL, base_url=f"{URL}/v1", api_key=KEY, model_info=INFO)
    tool = FunctionTool(get_weather, description="Get the weather for a given city.")
    asked = [UserMessage(content="What is the weather in New York?", source="user")]
    call = (await client.create(asked, tools=[tool], tool_choice="required")).content[0]
    return call, await tool.run_json(json.loads(call.arguments), CancellationToken())


async def tools_agent():
    return (
        await agent(tools=[get_weather], reflect_on_tool_use=True).run(
            task="What is the weather in New York?"
        )
    ).messages


async def structured():
    return (
        (await agent(output_content_type=AgentResponse).run(task="I am happy."))
        .messages[-1]
        .content.model_dump()
    )


run(chat=chat, stream=stream, tools=tools, tools_agent=tools_agent, structured=structured)
