"""Open WebUI: served as ``open-webui serve`` does it, by either of its connections, and asked as its page asks it."""

import json
import os
import socket
import tempfile
import threading
import time
import uuid

import requests
from harness import KEY, MODEL, URL, run

OLLAMA = os.environ.get("API") == "ollama"
os.environ |= {
    "OPENAI_API_BASE_URL": f"{URL}/v1",
    "OPENAI_API_KEY": KEY,
    "OLLAMA_BASE_URL": URL,
    "ENABLE_OPENAI_API": str(not OLLAMA),
    "ENABLE_OLLAMA_API": str(OLLAMA),
    "WEBUI_AUTH": "False",
    "WEBUI_SECRET_KEY": KEY,
    "DATA_DIR": tempfile.mkdtemp(),
    "OFFLINE_MODE": "True",
    "CHAT_RESPONSE_MAX_TOOL_CALL_ITERATIONS": "4",
}
with socket.create_server(("127.0.0.1", 0)) as free:
    PORT = free.getsockname()[1]
WEBUI = f"http://127.0.0.1:{PORT}"
TOOL = """
class Tools:
    def multiply(self, x: int, y: int) -> str:
        \"\"\"
        Multiply two numbers.
        :param x: The first number
        :param y: The second number
        \"\"\"
        return str(x * y)
"""
session = requests.Session()


def post(path, **body):
    answer = session.post(f"{WEBUI}{path}", json=body, stream=body.get("stream", False))
    if not answer.ok:
        raise RuntimeError(f"{path}: {answer.status_code} {answer.text[:300]}")
    return answer


def start():
    import open_webui

    threading.Thread(target=open_webui.serve, args=("127.0.0.1", PORT), daemon=True).start()
    while socket.socket().connect_ex(("127.0.0.1", PORT)):
        time.sleep(1)
    token = post("/api/v1/auths/signin", email="", password="").json()["token"]
    session.headers["Authorization"] = f"Bearer {token}"
    post("/api/v1/tools/create", id="calculator", name="Calculator", content=TOOL, meta={})
    listed = [model["id"] for model in session.get(f"{WEBUI}/api/models").json()["data"]]
    return next(model for model in listed if model.partition(":")[0] == MODEL)


def ask(content, **more):
    asked = [{"role": "user", "content": content}]
    return post("/api/chat/completions", model=model, messages=asked, **more)


def pieces(answer):
    lines = [line.removeprefix("data: ") for line in answer.iter_lines(decode_unicode=True) if line]
    assert lines[-1] == "[DONE]", lines[-1]
    return [json.loads(line) for line in lines[:-1]]


def chat():
    answer = ask("Why is the sky blue?").json()["choices"][0]["message"]["content"]
    talk = [{"role": "user", "content": "Why is the sky blue?"}, {"role": "assistant", "content": answer}]
    return answer, post("/api/v1/tasks/title/completions", model=model, messages=talk).json()["choices"]


def stream():
    return pieces(ask("Why is the sky blue?", stream=True))


def structured():
    capital = {"type": "string", "maxLength": 40}
    schema = {"type": "object", "properties": {"capital": capital}, "required": ["capital"]}
    form = {"type": "json_schema", "json_schema": {"name": "country", "schema": schema}}
    answer = ask("Tell me about Canada.", response_format=form).json()
    return json.loads(answer["choices"][0]["message"]["content"])["capital"]


def page(content, **more):
    """A new chat as the page begins it, with its title, tags and further questions; the kept answer."""
    question, answer = str(uuid.uuid4()), str(uuid.uuid4())
    user = {"id": question, "parentId": None, "role": "user", "content": content, "models": [model]}
    began = ask(
        content,
        stream=True,
        parent_id=None,
        user_message=user,
        id=answer,
        session_id="page",
        background_tasks={"title_generation": True, "tags_generation": True, "follow_up_generation": True},
        **more,
    )
    chat = began.json()["chat_id"]
    kept = {}
    while not kept.get("done"):
        time.sleep(1)
        kept = session.get(f"{WEBUI}/api/v1/chats/{chat}").json()["chat"]["history"]["messages"][answer]
    assert not kept.get("error"), kept["error"]
    return kept


def tools():
    return page("What is 34234 * 213345? Multiply.", tool_ids=["calculator"])


model = start()
run(chat=chat, stream=stream, tools=tools, structured=structured)
