"""Simon Willison's llm with a model of ``extra-openai-models.yaml``: prompts, tools and schemas of its documents."""

import json
import os
import tempfile
from pathlib import Path

from harness import KEY, MODEL, URL, run

os.environ["LLM_USER_PATH"] = tempfile.mkdtemp()
SERVER = {
    "model_id": "node",
    "model_name": MODEL,
    "api_base": f"{URL}/v1",
    "supports_tools": True,
    "supports_schema": True,
}
Path(os.environ["LLM_USER_PATH"], "extra-openai-models.yaml").write_text(json.dumps([SERVER]))  # JSON is YAML
import llm
from pydantic import BaseModel

model = llm.get_model("node")


class Dog(BaseModel):
    name: str
    age: int


def multiply(x: int, y: int) -> int:
    """Multiply two numbers."""
    return x * y


def chat():
    return model.prompt("Five surprising names for a pet pelican", key=KEY, stream=False).text()


def stream():
    return list(model.prompt("Five surprising names for a pet pelican", key=KEY))


def tools():
    chain = model.chain("what is 34234 * 213345", tools=[multiply], key=KEY)
    return chain.text(), [call for response in chain.responses() for call in response.tool_calls()]


def structured():
    return Dog(**json.loads(model.prompt("Describe a nice dog", schema=Dog, key=KEY).text()))


run(chat=chat, stream=stream, tools=tools, structured=structured)
