"""Precedence, conversion, and what is said of keys and values that cannot be used."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flexspec_mq.errors import UsageError
from flexspec_mq.settings import Loaded, Program, Setting, add_flags, load
from flexspec_mq.settings.load import usual_place


def _even(value: int) -> None:
    if value % 2:
        raise UsageError(f"{value} is odd", hint="even ones")


@dataclass(frozen=True, kw_only=True)
class Parts:
    number: Annotated[int, Setting(help="a number", unit="seconds", least=1, most=86_400)] = 1
    share: Annotated[float, Setting(help="a share", above=0)] = 0.5
    even: Annotated[int, Setting(help="no odd one", least=0, check=_even)] = 2
    window: Annotated[int, Setting(help="1-8", least=1, most=8)] = 1
    mode: Annotated[str, Setting(help="how", choices=("fast", "slow"))] = "fast"
    switch: Annotated[bool, Setting(help="on or off")] = False
    names: Annotated[tuple[str, ...], Setting(help="many")] = ()
    drawn: Annotated[str, Setting(help="a name", default="drawn")] = field(default_factory=lambda: "random")
    internal: int = 7


@dataclass(frozen=True, kw_only=True)
class Who:
    secret: Annotated[str | None, Setting(help="a word", secret=True)] = None
    secret_file: Annotated[Path | None, Setting(help="holds the word", replaces="secret")] = None


@dataclass(frozen=True, kw_only=True)
class Config:
    parts: Parts
    who: Who


TOY = Program("toy", Config)
WORD = "word"


def loaded(
    *flags: str, file: str | None = None, folder: Path | None = None, **environ: str
) -> Loaded[Config]:
    parser = argparse.ArgumentParser(exit_on_error=False, allow_abbrev=False)
    add_flags(parser, TOY)
    if file is not None:
        assert folder is not None
        (folder / "toy.toml").write_text(file)
        flags = (*flags, "--config", str(folder / "toy.toml"))
    return load(TOY, parser.parse_args(flags), {f"FLEXSPEC_TOY_{key}": text for key, text in environ.items()})


def refusal(*flags: str, file: str | None = None, folder: Path | None = None, **environ: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        loaded(*flags, file=file, folder=folder, **environ)
    return caught.value


def test_each_source_beats_those_below_it(tmp_path: Path) -> None:
    file = "\nnumber = 2\nwindow = 2\nmode = 'slow'\n"
    toy = loaded("--number", "4", file=file, folder=tmp_path, NUMBER="3", WINDOW="3")
    parts = toy.settings.parts
    assert (parts.number, parts.window, parts.mode, parts.even) == (4, 3, "slow", 2)
    assert [str(toy.origins[key]) for key in ("number", "window", "mode", "even")] == [
        "flag --number",
        "environment FLEXSPEC_TOY_WINDOW",
        f"file {tmp_path}/toy.toml:4",
        "default",
    ]
    assert toy.file == tmp_path / "toy.toml"
    assert loaded("--number", "1", NUMBER="3").settings.parts.number == 1, "a flag that says the default wins"


@given(number=st.integers(1, 86_400), share=st.floats(min_value=1e-300, allow_infinity=True))
def test_values_arrive_unchanged_from_text(number: int, share: float) -> None:
    parts = loaded("--share", repr(share), NUMBER=str(number)).settings.parts
    assert (parts.number, parts.share) == (number, share)


def test_switches_lists_and_empty_variables(tmp_path: Path) -> None:
    assert loaded("--switch").settings.parts.switch
    assert not loaded("--no-switch", SWITCH="true").settings.parts.switch
    assert loaded(SWITCH="1").settings.parts.switch
    assert loaded("--names", "a", "--names", "b,c").settings.parts.names == ("a", "b,c")
    assert loaded(NAMES="a, b,").settings.parts.names == ("a", "b")
    assert loaded(file='names = ["a", "b"]', folder=tmp_path).settings.parts.names == ("a", "b")
    empty = loaded(NUMBER="", SECRET="").settings
    assert (empty.parts.number, empty.who.secret) == (1, None)


def test_what_is_drawn_for_each_run_is_left_to_the_section() -> None:
    toy = loaded()
    assert (toy.settings.parts.drawn, toy.values["drawn"]) == ("random", None)
    assert toy.settings.parts.internal == 7
    assert "internal" not in TOY.entries


def test_paths_of_a_file_begin_at_the_file(tmp_path: Path) -> None:
    assert loaded(file="secret_file = 'word'", folder=tmp_path).settings.who.secret_file == tmp_path / "word"
    assert loaded("--secret-file", "word").settings.who.secret_file == Path("word")


def test_a_replacement_hides_the_other_one_of_lower_sources(tmp_path: Path) -> None:
    flagged = loaded("--secret-file", "f", SECRET=WORD).settings.who
    assert (flagged.secret, flagged.secret_file) == (None, Path("f"))
    from_environment = loaded(file="secret_file = 'f'", folder=tmp_path, SECRET=WORD).settings.who
    assert (from_environment.secret, from_environment.secret_file) == (WORD, None)


def test_a_secret_has_no_flag_and_is_in_no_repr() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, TOY)
    assert parser.parse_known_args(["--secret", "word"])[1] == ["--secret", "word"]
    assert "--secret-file" in parser.format_help()


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("NUMBER", "0", "number 0 is not between 1 and 86400 seconds"),
        ("NUMBER", "86401", "number 86401 is not between 1 and 86400 seconds"),
        ("EVEN", "-2", "even -2 is less than 0"),
        ("SHARE", "nan", "share nan is not above 0"),
        ("EVEN", "3", "3 is odd"),
        ("WINDOW", "9", "window 9 is not between 1 and 8"),
        ("MODE", "quick", "mode 'quick' is none of fast, slow"),
        ("NUMBER", "many", "number: 'many' is not a whole number"),
        ("NUMBER", "1.5", "number: '1.5' is not a whole number"),
        ("SWITCH", "perhaps", "switch: 'perhaps' is not true or false"),
    ],
)
def test_impossible_values_of_the_environment(key: str, text: str, message: str) -> None:
    error = refusal(file=None, folder=None, **{key: text})
    assert error.message == message
    assert f"set by environment FLEXSPEC_TOY_{key}" in error.hint


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("number = '2'", "number: '2' is not a whole number"),
        ("number = true", "number: True is not a whole number"),
        ("number = 0", "number 0 is not between 1 and 86400 seconds"),
        ("names = 'a'", "names: 'a' is not a list of strings"),
        ("names = [1]", "names: [1] is not a list of strings"),
        ("secret = 5", "secret: the value is not a string"),
        ("[number]", "number: {} is not a whole number"),
    ],
)
def test_impossible_values_of_a_file(line: str, message: str, tmp_path: Path) -> None:
    error = refusal(file=f"mode = 'fast'\n\n{line}\n", folder=tmp_path)
    assert error.message == message
    assert f"set by file {tmp_path}/toy.toml:3 (" in error.hint


def test_an_impossible_flag() -> None:
    assert refusal("--number", "0").hint == "set by flag --number (a number)"
    assert refusal("--even", "3").hint.startswith("even ones; set by flag --even")
    with pytest.raises(argparse.ArgumentError, match="'x' is not a whole number"):
        loaded("--number", "x")


def test_unknown_keys_and_variables(tmp_path: Path) -> None:
    in_file = refusal(file="number = 2\nnumbr = 3\n", folder=tmp_path)
    assert in_file.message == f"{tmp_path}/toy.toml:2: unknown key 'numbr'"
    assert in_file.hint.startswith("did you mean number? Known: drawn, ")
    below = refusal(file="mode = '''\nnumbr = 1\n'''\n'numbr' = 3\n", folder=tmp_path)
    assert below.message == f"{tmp_path}/toy.toml:4: unknown key 'numbr'", (
        "text that looks like a key is none"
    )
    in_environment = refusal(NUMBR="3")
    assert in_environment.message == "environment: unknown variable FLEXSPEC_TOY_NUMBR"
    assert in_environment.hint.startswith("did you mean FLEXSPEC_TOY_NUMBER? ")
    loaded(CONFIG="/dev/null")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    missing = refusal("--config", str(tmp_path / "none.toml"))
    assert (
        missing.message == f"the settings file {tmp_path}/none.toml cannot be read: No such file or directory"
    )
    assert "is no TOML" in refusal(file="number 2", folder=tmp_path).message
    assert "at line 1" in refusal(file="number 2", folder=tmp_path).message
    (tmp_path / "latin").write_bytes(b"mode = '\xe9'")
    assert "is not UTF-8" in refusal("--config", str(tmp_path / "latin")).message
    assert "Is a directory" in refusal(CONFIG=str(tmp_path)).message


def test_the_usual_place(tmp_path: Path) -> None:
    assert usual_place("toy", {"HOME": "/h"}) == Path("/h/.config/flexspec-mq/toy.toml")
    assert usual_place("toy", {"HOME": "/h", "XDG_CONFIG_HOME": "/x"}) == Path("/x/flexspec-mq/toy.toml")
    assert usual_place("toy", {"HOME": "/h", "XDG_CONFIG_HOME": "x"}) == Path(
        "/h/.config/flexspec-mq/toy.toml"
    )
    assert usual_place("toy", {}) is None
    (tmp_path / "flexspec-mq" / "toy.toml").write_text("number = 5")
    args = argparse.Namespace(config=None)
    assert load(TOY, args, {"XDG_CONFIG_HOME": str(tmp_path)}).settings.parts.number == 5
    (tmp_path / "other.toml").write_text("number = 6")
    named = {"XDG_CONFIG_HOME": str(tmp_path), "FLEXSPEC_TOY_CONFIG": str(tmp_path / "other.toml")}
    assert load(TOY, args, named).settings.parts.number == 6


def test_two_sections_cannot_share_a_key() -> None:
    @dataclass(frozen=True)
    class Twice:
        one: Who
        two: Who

    Twice.__annotations__ = {"one": Who, "two": Who}
    with pytest.raises(TypeError, match="secret is a setting of one and of two"):
        _ = Program("twice", Twice).entries
