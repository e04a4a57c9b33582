"""smolagents: an agent that calls tools, and one that writes its code in a schema, as its documents have them."""

from harness import KEY, MODEL, URL, run
from smolagents import CodeAgent, OpenAIModel, ToolCallingAgent, tool

model = OpenAIModel(model_id=MODEL, api_base=f"{URL}/v1", api_key=KEY)


@tool
def get_weather(location: str, celsius: bool = False) -> str:
    """Get the weather at a location.

    Args:
        location: the location
        celsius: the temperature type
    """
    return f"The weather in {location} is UNGODLY with torrential rains and temperatures below -10°C"


def chat():
    return model(
        [{"role": "user", "content": [{"type": "text", "text": "No need to help, take it easy."}]}]
    ).content


def stream():
    asked = [{"role": "user", "content": [{"type": "text", "text": "No need to help, take it easy."}]}]
    return [part.content for part in model.generate_stream(asked)]


def tools():
    agent = ToolCallingAgent(tools=[get_weather], model=model, max_steps=2)
    answer = agent.run("What's the weather like in Paris?")
    assert agent.memory.steps[1].tool_calls, agent.memory.steps[1]
    return answer, [step.tool_calls for step in agent.memory.steps[1:] if hasattr(step, "tool_calls")]


def structured():
    agent = CodeAgent(tools=[], model=model, use_structured_outputs_internally=True, max_steps=1)
    agent.run("Could you give me the 118th number in the Fibonacci sequence?")
    return agent.memory.steps[1].code_action


run(chat=chat, stream=stream, tools=tools, structured=structured)
