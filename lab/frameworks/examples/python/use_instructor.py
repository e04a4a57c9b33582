"""Instructor: the extraction of its README, by tools, by a JSON schema, as a list and in parts."""

import instructor
from harness import KEY, MODEL, URL, run
from openai import OpenAI
from pydantic import BaseModel


class User(BaseModel):
    name: str
    age: int


MESSAGES = [{"role": "user", "content": "John is 25 years old"}]


def client(mode):
    return instructor.from_openai(OpenAI(base_url=f"{URL}/v1", api_key=KEY), mode=mode)


def tools():
    ready = client(instructor.Mode.TOOLS)
    return ready.chat.completions.create(model=MODEL, response_model=User, messages=MESSAGES, max_retries=0)


def structured():
    ready = client(instructor.Mode.JSON_SCHEMA)
    return ready.chat.completions.create(model=MODEL, response_model=User, messages=MESSAGES, max_retries=0)


def stream_tools():
    parts = client(instructor.Mode.TOOLS).chat.completions.create_partial(
        model=MODEL, response_model=User, messages=MESSAGES, max_retries=0
    )
    return User.model_validate(list(parts)[-1].model_dump())


run(tools=tools, structured=structured, stream_tools=stream_tools)
