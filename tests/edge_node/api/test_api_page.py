"""The page's files over real HTTP: who gets them, under which headers, and that they name nothing that is not there."""

import re
import tomllib
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

import pytest

from broker.launcher import PrivateBroker
from tests.edge_node.api.served import served

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PAGE = Path(str(files("edge_node").joinpath("page")))
OURS = {file.name: file.read_text("utf-8") for file in PAGE.iterdir() if file.is_file()}
THEIRS = {f"vendored/{file.name}": file.read_text("utf-8") for file in PAGE.glob("vendored/*js")}
FILES = OURS | THEIRS


async def test_browsers_get_the_page_without_a_key_and_ollamas_clients_their_answer(
    mosquitto: PrivateBroker,
) -> None:
    async with served(mosquitto, api_key="sesame") as api:
        http = api.http
        for path, name in [("/", "index.html"), *((f"/page/{name}", name) for name in FILES)]:
            got = await http.get(api.url + path, headers=BROWSER)
            assert (got.status_code, got.text) == (200, FILES[name]), name
            policy = dict(
                part.strip().split(" ", 1) for part in got.headers["content-security-policy"].split(";")
            )
            kind = "text/javascript; charset=utf-8"
            assert not name.endswith("js") or got.headers["content-type"] == kind
            sources = [policy[f"{kind}-src"] for kind in ("default", "script", "style")]
            assert sources == ["'none'", "'self'", "'self'"]
            assert "unsafe" not in got.headers["content-security-policy"]
            told = [got.headers[name] for name in ("x-content-type-options", "cache-control")]
            assert told == ["nosniff", "no-cache"]
            again = await http.get(api.url + path, headers={**BROWSER, "if-none-match": got.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        for accept in ("*/*", "application/json", ""):
            root = await http.get(f"{api.url}/", headers={"accept": accept})
            assert (root.text, root.headers["vary"]) == ("Ollama is running", "accept")
        for path in ("/page/", "/page/none.js", "/page/..%2Fapi%2Fapp.py", "/page/%2e%2e/api/app.py"):
            assert (await http.get(api.url + path)).status_code in {401, 404}
        assert (await http.get(f"{api.url}/v1/models", headers=BROWSER)).status_code == 401


@pytest.mark.parametrize("name", OURS)
def test_the_page_names_only_its_own_files_and_nodes(name: str) -> None:
    text = FILES[name]
    for used in re.findall(r'(?:from|src=|href=) ?"(?:\./|page/)([^"]+)"', text):
        assert used in FILES
    if name.endswith((".html", ".js")):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|\beval\b|style=|onclick=|https?://", text
        )
    ids = set(re.findall(r'\bid="([^"]+)"', FILES["index.html"]))
    assert set(re.findall(r'byId\("([^"]+)"\)', text)) <= ids
    if name == "page.css":
        assert set(re.findall(r"#([a-z-]+)\b(?=[^;{}]*\{)", text)) <= ids


def test_others_modules_are_those_that_the_list_names() -> None:
    folder = PAGE / "vendored"
    told = tomllib.loads((folder / "vendored.toml").read_text("utf-8"))
    hashes = {name: known for one in told.values() for name, known in one["files"].items()}
    there = {file.name for file in folder.iterdir()} - {"vendored.toml"}
    assert there == hashes.keys()
    for name, known in hashes.items():
        assert sha256((folder / name).read_bytes()).hexdigest() == known, name
    assert all(one["license"] and one["version"] for one in told.values())
