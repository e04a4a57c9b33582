"""LlamaIndex's OpenAILike: an agent, a tool call and structured output, as its documents have them."""

from harness import KEY, MODEL, URL, run
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.bridge.pydantic import BaseModel
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    model=MODEL,
    api_base=f"{URL}/v1",
    api_key=KEY,
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
)


class Album(BaseModel):
    """Data model for an album."""

    name: str
    artist: str


def multiply(a: float, b: float) -> float:
    """Multiply two numbers and return the product."""
    return a * b


def chat():
    return llm.chat(
        [
            ChatMessage(role="system", content="You are a helpful assistant"),
            ChatMessage(role="user", content="Tell me a joke."),
        ]
    )


def stream():
    return [part.delta for part in llm.stream_chat([ChatMessage(role="user", content="Tell me a joke.")])]


def tools():
    tool = FunctionTool.from_defaults(fn=multiply)
    messages = [ChatMessage(role="user", content="What is 1234 * 4567?")]
    response = llm.chat_with_tools([tool], chat_history=messages, tool_required=True)
    messages.append(response.message)
    for call in llm.get_tool_calls_from_response(response, error_on_no_tool_call=True):
        result = str(tool(**call.tool_kwargs))
        messages.append(
            ChatMessage(role="tool", content=result, additional_kwargs={"tool_call_id": call.tool_id})
        )
    return messages, llm.chat_with_tools([tool], chat_history=messages).message


async def tools_agent():
    return str(
        await FunctionAgent(
            tools=[multiply],
            llm=llm,
            system_prompt="You are a helpful assistant that can multiply two numbers.",
        ).run("What is 1234 * 4567?")
    )


def structured():
    return llm.as_structured_llm(Album).complete("Generate an example album inspired by The Shining").raw


run(chat=chat, stream=stream, tools=tools, tools_agent=tools_agent, structured=structured)
