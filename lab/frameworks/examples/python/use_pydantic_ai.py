"""Pydantic AI: its first example, tools and structured output; `API` says by which of OpenAI's interfaces."""

import os

from harness import KEY, MODEL, URL, run
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput, RunContext

os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = f"{URL}/v1", KEY
model = f"{os.environ.get('API', 'openai')}:{MODEL}"


class CityLocation(BaseModel):
    city: str
    country: str


agent = Agent(model, instructions="Be concise, reply with one sentence.")
dice = Agent(
    model,
    deps_type=str,
    instructions="You're a dice game, you should roll the die and see if the number matches the user's guess.",
)


@dice.tool_plain
def roll_dice() -> str:
    """Roll a six-sided die and return the result."""
    return "4"


@dice.tool
def get_player_name(ctx: RunContext[str]) -> str:
    """Get the player's name."""
    return ctx.deps


def chat():
    return agent.run_sync('Where does "hello world" come from?').output


async def stream():
    async with agent.run_stream('Where does "hello world" come from?') as result:
        return [text async for text in result.stream_text(delta=True)]


def tools():
    return dice.run_sync("My guess is 4", deps="Anne").all_messages()


def structured():
    asked = "Where were the olympics held in 2012?"
    return [
        Agent(model, output_type=kind).run_sync(asked).output
        for kind in (CityLocation, NativeOutput(CityLocation))
    ]


run(chat=chat, stream=stream, tools=tools, structured=structured)
