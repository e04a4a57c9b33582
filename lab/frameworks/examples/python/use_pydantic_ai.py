"""Pydantic AI: its first example, tools and structured output; `API` says by which of OpenAI's interfaces."""

import os

from harness import KEY, MODEL, URL, run
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRequest, NativeOutput, RunContext, ToolDefinition
from pydantic_ai.direct import model_request_sync
from pydantic_ai.models import ModelRequestParameters

os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = f"{URL}/v1", KEY
model = f"{os.environ.get('API', 'openai')}:{MODEL}"


class Divide(BaseModel):
    """Divide two numbers."""

    numerator: float
    denominator: float


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


def tools_direct():
    tool = ToolDefinition(
        name="divide", description=Divide.__doc__, parameters_json_schema=Divide.model_json_schema()
    )
    asked = ModelRequestParameters(function_tools=[tool], allow_text_output=False)
    messages = [ModelRequest.user_text_prompt("What is 123 / 456?")]
    return Divide(
        **model_request_sync(model, messages, model_request_parameters=asked).tool_calls[0].args_as_dict()
    )


def structured():
    asked = "Where were the olympics held in 2012?"
    return [
        Agent(model, output_type=kind).run_sync(asked).output
        for kind in (CityLocation, NativeOutput(CityLocation))
    ]


run(chat=chat, stream=stream, tools=tools, tools_direct=tools_direct, structured=structured)
