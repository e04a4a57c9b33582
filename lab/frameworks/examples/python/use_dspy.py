"""DSPy: a prediction, one of several fields, one with native tool calls, and a stream, as its documents have them."""

from typing import Literal

import dspy
from dspy.lm15 import AccessPolicy, ModelSupport, OpenAIChatCompat, ProviderDefinition, register_provider
from harness import KEY, MODEL, URL, run

# What a server can do is declared, as its model is in no catalogue.
node = ProviderDefinition.chat(
    AccessPolicy(provider="node", env_keys=("NODE_KEY",), base_url=f"{URL}/v1"), compat=OpenAIChatCompat()
)
register_provider(node, supports=ModelSupport(function_calling=True, response_schema=True))
lm = dspy.LM(f"node/{MODEL}", api_base=f"{URL}/v1", api_key=KEY, model_type="chat", cache=False)
dspy.configure(lm=lm)


class Classify(dspy.Signature):
    """Classify sentiment of a given sentence."""

    sentence: str = dspy.InputField()
    sentiment: Literal["positive", "negative", "neutral"] = dspy.OutputField()
    confidence: float = dspy.OutputField()


class Ask(dspy.Signature):
    """Answer by tools."""

    question: str = dspy.InputField()
    tools: list[dspy.Tool] = dspy.InputField()
    outputs: dspy.ToolCalls = dspy.OutputField()


def weather(city: str) -> str:
    """Get the weather of a city."""
    return f"The weather in {city} is sunny"


def chat():
    return lm(messages=[{"role": "user", "content": "Say this is a test!"}])


def structured():
    return dspy.Predict(Classify)(sentence="This book was super fun to read, though not the last chapter.")


def tools():
    with dspy.context(adapter=dspy.JSONAdapter()):
        found = dspy.Predict(Ask, tool_choice="required")(
            question="What's the weather in Tokyo?", tools=[dspy.Tool(weather)]
        )
    return [call.execute(functions={"weather": weather}) for call in found.outputs.tool_calls]


run(chat=chat, structured=structured, tools=tools)
