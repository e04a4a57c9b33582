"""The documents as a site: `make docs` writes it to build/docs/VERSION, beside the versions that are there.

Pages are the Markdown files of the repository as they lie. The reference pages get their tables from the documents that
the product prints of itself. The site fetches nothing from elsewhere, so any static host serves it, or a browser alone.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.version import Version
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

import flexspec_mq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))
from document_tables import rendered  # noqa: E402

NAVIGATION = {
    "Start": ["docs/looking", "docs/doctor", "CHANGELOG"],
    "Use": [
        "docs/api",
        "docs/offline",
        "docs/ollama",
        "docs/asking",
        "docs/home-assistant",
        "docs/models",
        "docs/energy",
    ],
    "Operate": [
        "docs/deploy",
        "docs/servers",
        "docs/gpu",
        "docs/kubernetes",
        "docs/operators",
        "docs/brokers",
        "docs/observability",
        "docs/evolution",
        "docs/security",
    ],
    "Understand": [
        "docs/architecture",
        "docs/glossary",
        "docs/controller",
        "docs/protocol",
        "docs/texts",
        "docs/performance",
    ],
    "Reference": ["docs/settings", "docs/reference/http", "docs/reference/mqtt", "docs/reference/waits"],
    "Decisions": ["docs/adr/README"],
    "Develop": ["CONTRIBUTING", "lab/README"],
}
"""Pages by the captions of the sidebar, in the order of a newcomer, who has read the README."""

project = "FlexSpec MQ"
release = flexspec_mq.__version__
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "lab/README.md"]
exclude_patterns = [
    path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in {"docs", "lab"}
]
myst_heading_anchors = 6
highlight_language = "text"
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["site/site.css", "site/site.js"]
html_css_files = ["site.css"]
html_js_files = ["../../versions.js", "site.js"]
html_additional_pages = {"index": "index.html"}
templates_path = ["site"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False

Json = dict[str, Any]


def kind(schema: Json) -> str:
    """A JSON schema in a word or two; types of their own are links to their headings."""
    if "x-events" in schema:
        return ", ".join(f"`{name}` {kind(data)}" for name, data in schema["x-events"].items())
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema.get("enum", [schema.get("const")]))
    for several in ("anyOf", "oneOf", "allOf"):
        if several in schema:
            return " or ".join(dict.fromkeys(map(kind, schema[several])))
    if schema.get("type") == "array":
        return f"array of {kind(schema['items'])}" if isinstance(schema.get("items"), dict) else "array"
    least, most = schema.get("minimum"), schema.get("maximum")
    bounds = "" if least is None or most is None else f", {least:,} to {most:,}"
    return f"{schema.get('type', 'any')}{bounds}"


def types(schemas: dict[str, Json]) -> Iterator[str]:
    """A heading, a description and a table of fields for each type."""
    for name, schema in schemas.items():
        yield f"### {name}\n\n{schema.get('description', '').replace('``', '`')}"
        if "enum" in schema:
            yield f"Values: {kind(schema)}."
        fields = schema.get("properties") or {
            item.get("title", "?"): item for item in schema.get("items", []) if isinstance(item, dict)
        }
        rows = [
            f"| `{field}` | {kind(about)} | {about.get('description', '')} |".replace("``", "`").replace(
                "\n", " "
            )
            for field, about in fields.items()
        ]
        if rows:
            yield "\n".join(["| field | type | meaning |", "|---|---|---|", *rows])


def http(document: Json) -> Iterator[str]:
    """Endpoints, then types, of the HTTP API."""
    rows = ["| request | what | body | answer |", "|---|---|---|---|"]
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            body, answer = (
                next(iter(found.get("content", {}).values()), {}).get("schema", {})
                for found in (about.get("requestBody", {}), about["responses"].get("200", {}))
            )
            row = f"`{method.upper()} {path}` | {about['summary']}"
            rows.append(f"| {row} | {kind(body) if body else ''} | {kind(answer) if answer else ''} |")
    yield from ("## Endpoints", "\n".join(rows), "## Types", *types(document["components"]["schemas"]))


def mqtt(document: Json) -> Iterator[str]:
    """Topics, then types, of what travels by MQTT."""
    rows = ["| topic | what | messages |", "|---|---|---|"]
    for channel in document["channels"].values():
        messages = ", ".join(kind({"$ref": name}) for name in channel["messages"])
        rows.append(f"| `{channel['address']}` | {channel['description']} | {messages} |")
    yield from ("## Topics", "\n".join(rows), "## Types", *types(document["components"]["schemas"]))


DECISIONS = sorted(f"docs/adr/{path.stem}" for path in (ROOT / "docs" / "adr").glob("0*.md"))
TREES = {root_doc: NAVIGATION, "docs/adr/README": {"Decisions": DECISIONS}}
REFERENCES = {"docs/reference/http": (http, "openapi.json"), "docs/reference/mqtt": (mqtt, "asyncapi.json")}


def complete(_: Sphinx, page: str, source: list[str]) -> None:
    """Add navigation to indices and tables to the reference; a folder's link leads to its README, as on forges."""
    source[0] = re.sub(r"\]\(([\w./-]+/)\)", r"](\1README.md)", source[0])
    if "<!-- table: " in source[0]:
        source[0] = rendered(source[0])
    if page in REFERENCES:
        write, name = REFERENCES[page]
        document = json.loads((ROOT / "schemas" / "generated" / name).read_text("utf-8"))
        source[0] += "\n\n" + "\n\n".join(write(document))
    for caption, pages in TREES.get(page, {}).items():
        names = "\n".join(f"/{name}" for name in pages)
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{names}\n```\n"


def finish(app: Sphinx, failed: Exception | None) -> None:
    """Write what each version's chooser reads, and a page that leads to the newest, beside the versions' folders.

    Raises:
        ExtensionError: a page would fetch something from another host.
    """
    if failed is not None:
        return
    for page in app.outdir.rglob("*.html"):
        if fetched := _FETCHED.search(page.read_text("utf-8")):
            raise ExtensionError(f"{page} fetches from elsewhere: {fetched[0]}")
    site = app.outdir.parent
    names = [readme.parent.name for readme in site.glob("[0-9]*/README.html")]
    names.sort(key=Version, reverse=True)
    (site / "versions.js").write_text(f"const VERSIONS = {json.dumps(names)};\n", "utf-8")
    start = (app.outdir / "index.html").read_text("utf-8")
    (site / "index.html").write_text(start.replace("README", f"{names[0]}/README"), "utf-8")


_FETCHED = re.compile(
    r"<(?:script|img|iframe|source)[^>]*src=[\"']?(?:https?:)?//[^>]*|<link[^>]*href=[\"']?(?:https?:)?//[^>]*"
)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", complete)
    app.connect("build-finished", finish)
