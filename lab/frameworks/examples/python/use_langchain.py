"""LangChain's ChatOpenAI: agents and structured output, as its documents have them."""

from harness import KEY, MODEL, URL, run
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

model = ChatOpenAI(model=MODEL, base_url=f"{URL}/v1", api_key=KEY)


@tool
def get_weather(location: str) -> str:
    """Get the weather at a location."""
    return f"It's always sunny in {location}!"


class Movie(BaseModel):
    """A movie with details."""

    title: str = Field(description="The title of the movie")
    year: int = Field(description="The year the movie was released")
    director: str = Field(description="The director of the movie")
    rating: float = Field(description="The movie's rating out of 10")


def chat():
    return model.invoke("Why do parrots talk?").content


def stream():
    return [part.content for part in model.stream("Why do parrots have colorful feathers?")]


def tools():
    with_tools = model.bind_tools([get_weather], tool_choice="any")
    messages = [HumanMessage("What's the weather in Boston?")]
    messages.append(with_tools.invoke(messages))
    messages += [get_weather.invoke(call) for call in messages[-1].tool_calls]
    assert len(messages) > 2, messages[-1]
    return messages, model.bind_tools([get_weather]).invoke(messages).content


def stream_tools():
    parts = list(model.bind_tools([get_weather], tool_choice="any").stream("What's the weather in Boston?"))
    return sum(parts[1:], parts[0]).tool_calls[0]["args"]["location"]


def tools_agent():
    ready = create_agent(model=model, tools=[get_weather], system_prompt="You are a helpful assistant")
    return ready.invoke({"messages": [{"role": "user", "content": "What is the weather in San Francisco?"}]})[
        "messages"
    ]


def structured():
    asked = "Provide details about the movie Inception"
    return [
        model.with_structured_output(Movie, method=way).invoke(asked).model_dump()
        for way in ("json_schema", "function_calling")
    ]


run(
    chat=chat,
    stream=stream,
    tools=tools,
    stream_tools=stream_tools,
    tools_agent=tools_agent,
    structured=structured,
)
