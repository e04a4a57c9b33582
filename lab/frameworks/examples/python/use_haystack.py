"""Haystack: a chat generator, an agent with a tool, and structured output, as its documents have them."""

from typing import Annotated

from harness import KEY, MODEL, URL, run
from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import tool
from haystack.utils import Secret
from pydantic import BaseModel


class NobelPrizeInfo(BaseModel):
    recipient_name: str
    award_year: int
    category: str


@tool
def weather(city: Annotated[str, "the city for which to get the weather"] = "Munich") -> str:
    """Provide the weather for a given city."""
    return f"The weather in {city} is sunny."


def generator(**more):
    return OpenAIChatGenerator(model=MODEL, api_base_url=f"{URL}/v1", api_key=Secret.from_token(KEY), **more)


def chat():
    return generator().run([ChatMessage.from_user("What's Natural Language Processing?")])["replies"][0].text


def stream():
    pieces = []
    generator(streaming_callback=lambda chunk: pieces.append(chunk.content)).run(
        [ChatMessage.from_user("What's Natural Language Processing?")]
    )
    assert len(pieces) > 1
    return pieces


def tools():
    agent = Agent(
        chat_generator=generator(generation_kwargs={"tool_choice": "required"}),
        tools=[weather],
        exit_conditions=["weather"],
    )
    messages = agent.run(messages=[ChatMessage.from_user("What's the weather in Berlin?")])["messages"]
    assert messages[-1].tool_call_result, messages
    return messages, Agent(chat_generator=generator(), tools=[weather]).run(messages=messages)["messages"]


def structured():
    asked = [
        ChatMessage.from_user(
            "In 2021, American scientist David Julius received the Nobel Prize in Physiology or Medicine."
        )
    ]
    reply = generator(generation_kwargs={"response_format": NobelPrizeInfo}).run(asked)["replies"][0]
    return NobelPrizeInfo.model_validate_json(reply.text)


run(chat=chat, stream=stream, tools=tools, structured=structured)
