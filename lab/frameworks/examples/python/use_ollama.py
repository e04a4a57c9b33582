"""Ollama's client: chat, stream, tools, structured output and its lists, as its README has them."""

from harness import KEY, MODEL, URL, run
from ollama import Client
from pydantic import BaseModel, Field

client = Client(host=URL, headers={"Authorization": f"Bearer {KEY}"})


class Country(BaseModel):
    name: str
    capital: str
    languages: list[str] = Field(max_length=4)


def add_two_numbers(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a (int): The first number
        b (int): The second number
    """
    return a + b


def chat():
    asked = [{"role": "user", "content": "Why is the sky blue?"}]
    listed = (
        [model.model for model in client.list().models],
        client.show(MODEL).capabilities,
        client.ps().models,
    )
    return (
        listed,
        client.chat(MODEL, messages=asked).message.content,
        client.generate(MODEL, "Why is the sky blue?").response,
    )


def stream():
    asked = [{"role": "user", "content": "Why is the sky blue?"}]
    return [part["message"]["content"] for part in client.chat(MODEL, messages=asked, stream=True)]


def tools():
    messages = [{"role": "user", "content": "What is three plus one?"}]
    response = client.chat(MODEL, messages=messages, tools=[add_two_numbers])
    messages.append(response.message)
    for call in response.message.tool_calls or ():
        result = add_two_numbers(**call.function.arguments)
        messages.append({"role": "tool", "content": str(result), "tool_name": call.function.name})
    return response.message, client.chat(MODEL, messages=messages).message


def stream_tools():
    asked = [{"role": "user", "content": "What is three plus one?"}]
    return [
        part.message.tool_calls
        for part in client.chat(MODEL, messages=asked, tools=[add_two_numbers], stream=True)
    ]


def structured():
    asked = [{"role": "user", "content": "Tell me about Canada."}]
    response = client.chat(MODEL, messages=asked, format=Country.model_json_schema())
    return Country.model_validate_json(response.message.content)


run(chat=chat, stream=stream, tools=tools, stream_tools=stream_tools, structured=structured)
