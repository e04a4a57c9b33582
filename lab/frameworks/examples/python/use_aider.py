"""aider, by its page on scripting it from Python: a question, and a file that it writes."""

import os
import tempfile
from pathlib import Path

from harness import KEY, MODEL, URL, run

HOME = tempfile.mkdtemp()  # it keeps settings and caches there
os.environ |= {"HOME": HOME, "OPENAI_API_BASE": f"{URL}/v1", "OPENAI_API_KEY": KEY}
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
from aider.coders import Coder
from aider.io import InputOutput
from aider.models import Model

os.chdir(tempfile.mkdtemp(dir=HOME))
FILE = Path("greeting.py")


def coder(**more):
    io = InputOutput(yes=True, pretty=False)
    return Coder.create(main_model=Model(f"openai/{MODEL}"), io=io, fnames=[str(FILE)], use_git=False, **more)


def chat():
    return coder(stream=False, edit_format="ask").run("make a script that prints hello world")


def stream():
    return coder(stream=True, edit_format="ask").run("make a script that prints hello world")


def stream_file():
    FILE.write_text("")
    coder(stream=True).run("make a script that prints hello world")
    written = FILE.read_text()
    assert "hello" in written.lower(), written
    return written


run(chat=chat, stream=stream, stream_file=stream_file)
