"""Write the prompts that the shipped draft's training text answers: ``python -m training.examples.draft_prompts``.

Kinds of prompts that users of a small instructed model write (translations, summaries, questions with and
without a passage, code, essays), made from free text that Debian and the Python package index hold: manuals,
collections of quotes, a computing dictionary, news and encyclopaedia articles. Which words stand around a text
is drawn from several wordings. The outcome is a function of the sources and ``--seed``.
"""

from __future__ import annotations

import argparse
import bz2
import gettext
import gzip
import html
import json
import random
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

PACKAGES = ("fortunes-de", "debian-handbook", "installation-guide-amd64", "dict-foldoc", "wesnoth-1.18-data")
WHEEL = "gensim"
SHARES = {"translation": 0.2, "summary": 0.22, "question": 0.2, "passage": 0.16, "code": 0.1, "essay": 0.12}

WORDS = {
    name: tuple(words)
    for name, words in tomllib.loads(
        Path(__file__).with_name("draft_wordings.toml").read_text("utf-8")
    ).items()
}


def fetch(folder: Path) -> None:
    """Bring the sources into a folder; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not (folder / package).exists():
            subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True, stdout=sys.stderr)
            (deb,) = folder.glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "-x", deb.name, package], cwd=folder, check=True)
    if not any(folder.glob(f"{WHEEL}-*.whl")):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary",
            ":all:",
            WHEEL,
        ]
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)


def clean(text: str) -> str:
    """Text of a page without tags, entities and line breaks."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", text))).strip()


def german(folder: Path) -> Iterator[str]:
    """German sentences and short passages."""
    for path in sorted((folder / "fortunes-de/usr/share/games/fortunes-de").rglob("*")):
        if path.is_file() and path.suffix not in {".dat", ".u8"} and "asciiart" not in path.name:
            yield from (clean(quote) for quote in re.split(r"\n%\n?", path.read_text("utf-8", "replace")))
    for root in (
        folder / "debian-handbook/usr/share/doc/debian-handbook/html/de-DE",
        folder / "installation-guide-amd64/usr/share/doc/installation-guide-amd64/de",
    ):
        for page in sorted(root.rglob("*.html")):
            for paragraph in re.findall(r"<p[^>]*>(.*?)</p>", page.read_text("utf-8", "replace"), re.DOTALL):
                yield from re.split(r"(?<=[a-zäöüß][.!?]) (?=[A-ZÄÖÜ])", clean(paragraph))
    for path in sorted((folder / "wesnoth-1.18-data").rglob("locale/de/LC_MESSAGES/*.mo")):
        with path.open("rb") as file:
            texts = gettext.GNUTranslations(file)._catalog.values()  # type: ignore[attr-defined]  # noqa: SLF001
        for text in texts:
            yield from re.split(r"(?<=[a-zäöüß][.!?]) (?=[A-ZÄÖÜ])", clean(str(text)))


def articles(folder: Path) -> tuple[list[str], dict[str, list[str]]]:
    """News articles, and paragraphs of encyclopaedia articles by title."""
    with zipfile.ZipFile(next(folder.glob(f"{WHEEL}-*.whl"))) as wheel:
        news = wheel.read("gensim/test/test_data/lee_background.cor").decode("utf-8", "replace").splitlines()
        names = [name for name in wheel.namelist() if name.endswith("p000030302-shortened.bz2")]
        dump = bz2.decompress(wheel.read(names[0])).decode("utf-8", "replace")
    pages: dict[str, list[str]] = {}
    for title, body in re.findall(r"<title>(.*?)</title>.*?<text[^>]*>(.*?)</text>", dump, re.DOTALL):
        paragraphs = [wikitext(part) for part in re.split(r"\n\s*\n|\n", html.unescape(body))]
        if good := [p for p in paragraphs if len(p) > 350 and not re.match(r"[|*#:;!{]", p)]:
            pages[html.unescape(title)] = good
    return news, pages


def wikitext(text: str) -> str:
    """A paragraph of wiki markup as plain text."""
    text = re.sub(r"<ref[^>]*?/>|<ref.*?</ref>|<!--.*?-->", "", text)
    for _ in range(4):
        text = re.sub(r"\{\{[^{}]*\}\}", "", text)
    text = re.sub(r"\[\[(?:[^|\]]*\|)?([^\]]*)\]\]", r"\1", text)
    return clean(re.sub(r"\[\S+ ([^\]]*)\]|'{2,}", r"\1", text))


def dictionary(folder: Path) -> dict[str, str]:
    """Entries of a computing dictionary: heading and text."""
    with gzip.open(
        next((folder / "dict-foldoc").rglob("*.dict.dz")), "rt", encoding="utf-8", errors="replace"
    ) as file:
        found = re.findall(r"^(\S[^\n]{1,38})\n\n((?: +[^\n]*\n|\n)+)", file.read(), re.MULTILINE)
    return {heading.strip(): clean(body) for heading, body in found}


def documents(path: Path | None) -> tuple[list[str], list[str]]:
    """Texts and questions inside instructions that name their ``source``, in the way of T0."""
    texts, questions = [], []
    for line in path.read_text(encoding="utf-8").splitlines() if path else ():
        row = json.loads(line)
        source, prompt = row.get("source", ""), row["prompt"]
        if re.search(r"cnn_dailymail|xsum|multi_news|duorc|quoref|imdb|adversarial", source):
            longest = max(re.split(r"\n\n+", prompt), key=len)
            if len(longest) > 500 and "spice" not in source and "generate_story" not in source:
                texts.append(clean(longest))
        elif re.search(r"wiki_qa|sciq|hotpot|commonsense|qasc|trec", source):
            questions += [clean(q) for q in re.findall(r"[A-Za-z][^\n?:\"]{15,120}\?", prompt)]
    return list(dict.fromkeys(texts)), list(dict.fromkeys(questions))


def cut(text: str, characters: int) -> str:
    """The first sentences of a text, about so many characters."""
    if len(text) <= characters:
        return text
    stop = text.rfind(". ", characters // 2, characters)
    return text[: stop + 1] if stop > 0 else text[:characters].rsplit(" ", 1)[0]


def make(folder: Path, instructions: Path | None, count: int, seed: int) -> list[dict[str, str]]:
    """All prompts, kinds mixed."""
    rng = random.Random(seed)
    sentences = [
        s
        for s in dict.fromkeys(german(folder))
        if 40 <= len(s) <= 320 and re.search(r"[a-zäöü]{4} [a-zäöü]", s)
    ]
    news, pages = articles(folder)
    entries = {k: v for k, v in dictionary(folder).items() if len(v) > 60 and not v.startswith("{")}
    texts, questions = documents(instructions)
    words = [k for k in entries if re.fullmatch(r"[A-Za-z][A-Za-z -]{3,30}", k)]
    titles = [t for t in pages if ":" not in t and "(" not in t and "List of" not in t]
    places = re.findall(
        r"\b([A-Z][a-z]+ [A-Z][a-z]+(?: [A-Z][a-z]+)?)\b",
        " ".join(news) + " ".join(" ".join(p) for p in pages.values()),
    )
    topics = [*words[:: max(1, len(words) // 400)], *titles * 3, *dict.fromkeys(places)]
    passages = [(title, paragraph) for title, paragraphs in pages.items() for paragraph in paragraphs]
    long = [*news, *texts, *(cut(" ".join(parts[:6]), 3000) for parts in pages.values())]
    for pool in (sentences, long, passages, questions):
        rng.shuffle(pool)

    def fill(template: str, values: list[str]) -> str:
        return template.format(*rng.sample(values, template.count("{}")))

    def size() -> int:
        return rng.choices((700, 1400, 2600, 3800), (0.4, 0.3, 0.2, 0.1))[0]

    makers: dict[str, Callable[[int], str]] = {
        "translation": lambda i: rng.choice(WORDS["translation"]).format(sentences[i % len(sentences)]),
        "summary": lambda i: rng.choice(WORDS["summary"]).format(cut(long[i % len(long)], size())),
        "question": lambda i: (
            questions[i // 2]
            if i % 2 and i // 2 < len(questions)
            else fill(rng.choice(WORDS["question"]), topics)
        ),
        "passage": lambda i: passage(*passages[i % len(passages)]),
        "code": lambda _i: rng.choice(WORDS["code"]).format(
            language=rng.choice(WORDS["language"]), task=rng.choice(WORDS["task"])
        ),
        "essay": lambda _i: fill(rng.choice(WORDS["essay"]), topics),
    }

    def passage(title: str, first: str) -> str:
        others = rng.sample(pages[title], min(len(pages[title]), 3))
        return f"{cut(' '.join([first, *others]), size())}\n{fill(rng.choice(WORDS['passage']), [title])}"

    made = [
        {"kind": kind, "prompt": makers[kind](i)}
        for kind, share in SHARES.items()
        for i in range(round(count * share))
    ]
    unique = list({row["prompt"]: row for row in made}.values())
    rng.shuffle(unique)
    return unique


def main() -> int:
    """Fetch, make, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON lines with prompt and kind")
    parser.add_argument(
        "--sources", type=Path, required=True, help="where sources are kept; fetched if they are not there"
    )
    parser.add_argument(
        "--instructions",
        type=Path,
        help="JSON lines with prompt and source, T0 style: more texts and questions",
    )
    parser.add_argument("--count", type=int, default=6000, help="prompts, about (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.count < 1:
        parser.error(f"--count {args.count} is less than 1")
    try:
        fetch(args.sources)
        rows = make(args.sources, args.instructions, args.count, args.seed)
    except (OSError, subprocess.CalledProcessError) as error:
        print(
            f"error: {error}\n  hint: sources come from apt and pip on Debian 13; --sources keeps what is there",
            file=sys.stderr,
        )
        return 1
    args.out.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    kinds = {kind: sum(row["kind"] == kind for row in rows) for kind in SHARES}
    print(json.dumps({"prompts": len(rows), **kinds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
