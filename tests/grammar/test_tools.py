"""Calls of tools: what a target may write, and what is read out of it, however it was cut."""

import json
from functools import cache
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from flexspec_mq.errors import GrammarError, UsageError
from flexspec_mq.grammar.grammar import Grammar, fitted
from flexspec_mq.grammar.matcher import GrammarTokenizer
from flexspec_mq.grammar.reader import in_lark
from flexspec_mq.grammar.tools import (
    HERMES,
    LLAMA,
    CallArguments,
    CallBegins,
    CallEnds,
    CallEvent,
    CallParser,
    Content,
    ReadCall,
    Tool,
    ToolFormat,
    ToolUse,
)
from flexspec_mq.models.text import Turn, format_of, render_turns
from flexspec_mq.models.tokenizer import PlainTokenizer

WEATHER = Tool(
    "weather",
    "Tells the weather.",
    {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
    },
)
NOW = Tool("now")
MARKS = ToolFormat(native=True, marks=True)
USES = {
    "auto": ToolUse(tools=(WEATHER, NOW)),
    "required": ToolUse(tools=(WEATHER, NOW), required=True),
    "one": ToolUse(tools=(WEATHER, NOW), parallel=False),
    "named": ToolUse(tools=(WEATHER, NOW), only=frozenset({"now"}), required=True, parallel=False),
}
CITY = ReadCall("weather", '{"city": "Ürümqi \\"}{\\n"}')
TIME = ReadCall("now", "{}")

QWEN = (
    "{%- if tools %}{{- '<|im_start|>system\n' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}"
    "{{- '<|im_end|>\n' }}{%- endif %}{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role }}{%- if message.content %}{{- '\n' + message.content }}{%- endif %}"
    "{%- for tool_call in message.tool_calls %}{%- set tool_call = tool_call.function %}"
    '{{- \'\n<tool_call>\n{"name": "\' }}{{- tool_call.name }}{{- \'", "arguments": \' }}'
    "{{- tool_call.arguments | tojson }}{{- '}\n</tool_call>' }}{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}"
)
"""Parts of Qwen 2.5's template."""
LLAMA_3 = (
    "{%- if tools %}Environment: ipython\n{%- for t in tools %}{{ t | tojson }}{%- endfor %}{%- endif %}"
    "{%- for message in messages %}{%- if 'tool_calls' in message %}"
    "{%- set tool_call = message.tool_calls[0].function %}"
    "{{- '{\"name\": \"' + tool_call.name|trim + '\", ' }}{{- '\"parameters\": ' }}"
    '{{- tool_call.arguments | tojson }}{{- "}" }}'
    "{%- else %}{{ message.role }}: {{ message.content | trim }};{%- endif %}{%- endfor %}"
)
"""Parts of Llama 3.1's template."""
PLAIN = "{% for message in messages %}[{{ message['role'] }}]{{ message['content'] }}{% endfor %}"


@cache
def backend(marks: bool = False) -> Tokenizer:
    """All bytes, and maybe the marks of a call as tokens of their own, which are not special, as Qwen has them."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(BPE(vocab={letter: at for at, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<|end|>", special=True)])
    made.add_tokens([AddedToken(mark, special=False) for mark in ("<tool_call>", "</tool_call>") if marks])
    return made


@cache
def reader(marks: bool) -> GrammarTokenizer:
    return GrammarTokenizer(backend(marks).to_str(), 259, [256])


def taken(grammar: Grammar, text: str, marks: bool = False) -> bool:
    """Whether a text is one of a grammar."""
    ids = backend(marks).encode(text, add_special_tokens=False).ids
    return reader(marks).compile(grammar).matcher().valid([], [*ids, 256]) == len(ids) + 1


def read(form: ToolFormat, use: ToolUse | None, parts: list[str]) -> list[CallEvent]:
    """Events of a text, joined where they go on."""
    parser = CallParser(form, use)
    events: list[Any] = [event for part in parts for event in parser.push(part)] + parser.finish()
    joined: list[Any] = []
    for event in events:
        last = joined[-1] if joined else None
        if isinstance(event, Content) and isinstance(last, Content):
            assert event.at == last.at + len(last.text)
            joined[-1] = Content(last.text + event.text, last.at)
        elif isinstance(event, CallArguments) and isinstance(last, CallArguments):
            joined[-1] = CallArguments(event.number, last.text + event.text)
        else:
            joined.append(event)
    return joined


def told(*calls: ReadCall) -> list[CallEvent]:
    events: list[CallEvent] = []
    for at, call in enumerate(calls):
        events += [CallBegins(at, call.name), CallArguments(at, call.arguments), CallEnds(at)]
    return events


@pytest.mark.parametrize("form", [HERMES, MARKS, LLAMA])
@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("{0}", {"auto", "one", "required"}),
        ("{1}", {"auto", "one", "required", "named"}),
        ("free < text <tool", {"auto", "one"}),
        ("Let me look.\n{0}", {"auto", "one"}),
        ("{0}\n{1}", {"auto", "required"}),
        ("{0}\n{1} more", set()),
        ("{0", set()),
    ],
)
def test_a_grammar_allows_what_the_choice_does(form: ToolFormat, text: str, allowed: set[str]) -> None:
    written = (
        text.replace("{0}", form.call(CITY))
        .replace("{1}", form.call(TIME))
        .replace("{0", form.call(CITY)[:-3])
    )
    if form is LLAMA and text == "{0}\n{1}":  # a single call, and nothing else
        allowed = set()
    assert {name for name, use in USES.items() if taken(use.grammar(form), written, form.marks)} == allowed
    if text != "Let me look.\n{0}":
        bare = text.replace("{0}", form.bare.call(CITY)).replace("{1}", form.bare.call(TIME))
        bare = bare.replace("{0", form.bare.call(CITY)[:-1])
        free = (allowed & {"auto", "one"}) if form is not LLAMA else allowed
        assert {name for name, use in USES.items() if taken(use.grammar(form), bare, form.marks)} == free


@pytest.mark.parametrize("form", [HERMES, MARKS, LLAMA])
def test_arguments_and_names_are_those_of_the_tools(form: ToolFormat) -> None:
    for call in (
        ReadCall("other", "{}"),
        ReadCall("now", '{"city": "x"}'),
        ReadCall("weather", "{}"),
        ReadCall("weather", '{"city": 3}'),
        ReadCall("weather", '{"city": "x", "made": "up"}'),
    ):
        uses = [use for use in USES.values() if use.required or form.trigger or call.name != "other"]
        for use in uses:
            assert not taken(use.grammar(form), form.call(call), form.marks), call
    content = Grammar.from_json_schema(
        {"type": "object", "properties": {"z": {"type": "integer"}}, "required": ["z"]}
    )
    assert taken(USES["required"].grammar(form, content), form.call(CITY), form.marks)
    if form is LLAMA:
        with pytest.raises(UsageError, match="bare JSON"):
            USES["auto"].grammar(form, content)
        return
    both = USES["auto"].grammar(form, content)
    assert taken(both, '{"z": 3}', form.marks)
    assert taken(both, form.call(CITY), form.marks)
    assert not taken(both, "free", form.marks)


@given(
    form=st.sampled_from([HERMES, HERMES.bare, LLAMA]),
    before=st.text(st.sampled_from('a <>{}"\n\\tool_ca/'), max_size=30),
    calls=st.lists(
        st.builds(
            ReadCall,
            st.sampled_from(["weather", "now"]),
            st.dictionaries(
                st.text(max_size=5), st.recursive(st.text() | st.integers(), st.lists), max_size=3
            ).map(lambda value: json.dumps(value, ensure_ascii=False)),
        ),
        max_size=3,
    ),
    data=st.data(),
)
def test_any_cut_of_a_text_gives_the_same_calls(
    form: ToolFormat, before: str, calls: list[ReadCall], data: st.DataObject
) -> None:
    if not form.trigger:
        before = "" if calls else before
    if form is LLAMA:
        calls = calls[:1]
    text = before + ("\n" if calls and before else "") + "\n".join(form.call(call) for call in calls)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    events = read(form, USES["auto"], parts)
    assert events == read(form, USES["auto"], list(text)) == read(form, USES["auto"], [text])
    if not any(mark in before for mark in (HERMES.trigger, '{"')):
        shown = before.rstrip() if calls else before
        assert events == ([Content(shown, 0)] if shown else []) + told(*calls)
    assert read(form, None, parts) == ([Content(text, 0)] if text else [])


@pytest.mark.parametrize("form", [HERMES, MARKS, LLAMA])
@pytest.mark.parametrize("name", USES)
def test_whatever_a_grammar_allows_is_read_as_calls_that_are_valid(form: ToolFormat, name: str) -> None:
    """Walks by chance through the masks, often towards the ends of strings and texts."""
    use, chance = USES[name], Random(name)
    compiled = reader(form.marks).compile(use.grammar(form))
    likely, whole, called = [256, *backend().encode('"{', add_special_tokens=False).ids], 0, 0
    for _ in range(25):
        matcher, ids = compiled.matcher(), list[int]()
        while len(ids) < 400 and 256 not in ids:
            matcher.follow(ids)
            allowed = np.flatnonzero(matcher.allowed())
            often = [token for token in likely if token in allowed]
            ids.append(
                int(chance.choice(often) if often and chance.random() < 0.5 else chance.choice(allowed))
            )
        parser = CallParser(form, use)
        events = parser.push(backend(form.marks).decode(ids, skip_special_tokens=True)) + parser.finish()
        complete = parser.calls[: sum(isinstance(event, CallEnds) for event in events)]
        for call in complete:
            told = json.loads(call.arguments)
            assert told == {} if call.name == "now" else isinstance(told["city"], str)
            assert use.only is None or call.name in use.only
        whole, called = whole + (256 in ids), called + bool(complete)
        if 256 in ids and use.required:
            assert complete == parser.calls != []
            assert not any(isinstance(event, Content) for event in events)
        assert len(parser.calls) <= (8 if use.parallel else 1)
    assert whole > 10
    assert called > 10 or not use.required


def test_a_text_that_was_cut_tells_the_call_as_far_as_it_came() -> None:
    whole = HERMES.call(CITY)
    for size in range(len(whole)):
        events = read(HERMES, USES["required"], [whole[:size]])
        told_so_far = "".join(event.text for event in events if isinstance(event, CallArguments))
        assert CITY.arguments.startswith(told_so_far)
        assert not any(isinstance(event, Content) for event in events)
        assert len(events) <= 3


def form_of(template: str | None) -> ToolFormat:
    return format_of(PlainTokenizer(backend(), {}, template, 9))


def rendered(template: str | None, turns: list[Turn], tools: ToolUse | None) -> str:
    return render_turns(PlainTokenizer(backend(), {}, template, 9), turns, tools)


def test_a_conversation_with_tools_is_written_by_the_template_or_in_words_of_ours() -> None:
    turns = [
        Turn("system", "Be brief."), Turn("user", "Weather?"), Turn("assistant", "I look.", (CITY, TIME)),
        Turn("tool", "rain", tool="weather"), Turn("tool", "", tool="now"),
    ]  # fmt: skip
    use = USES["auto"]
    assert form_of(QWEN) == ToolFormat(native=True)
    for other in (
        "{{ xml_tools }}" + QWEN.replace("tools", "xml_tools"),
        "<function=" + QWEN,
        "{{ tools }}" + PLAIN,
    ):
        assert form_of(other) == HERMES
    native = rendered(QWEN, turns, use)
    assert json.dumps(WEATHER.as_told(), ensure_ascii=False) in native
    assert f"I look.\n{HERMES.call(CITY)}\n{HERMES.call(TIME)}<|im_end|>\n" in native
    assert native.endswith("<|im_start|>tool\nrain<|im_end|>\n<|im_start|>tool<|im_end|>\n")
    assert form_of(PLAIN) == form_of(None) == HERMES
    plain = rendered(PLAIN, turns, use)
    assert plain == (
        f"[system]Be brief.\n\n{use.prompt()}[user]Weather?[assistant]I look.\n{HERMES.call(CITY)}\n{HERMES.call(TIME)}"
        "[user]<tool_response>\nrain\n</tool_response>\n<tool_response>\n\n</tool_response>"
    )
    assert rendered(PLAIN, turns[1:2], use) == f"[system]{use.prompt()}[user]Weather?"
    assert rendered(PLAIN, turns[1:2], None) == "[user]Weather?"
    assert rendered(None, turns[1:2], use) == f"{use.prompt()}\n\nWeather?"
    assert form_of(LLAMA_3) == LLAMA
    single = rendered(LLAMA_3, [turns[1], Turn("assistant", "", (CITY,)), turns[3]], use)
    assert single.endswith(f"user: Weather?;{LLAMA.call(CITY)}tool: rain;")


def test_a_call_that_was_cut_stands_in_a_prompt_as_a_text() -> None:
    for size in range(len(CITY.arguments)):
        cut = CITY._replace(arguments=CITY.arguments[:size])
        assert cut.value == cut.arguments
        turns = [Turn("user", "Weather?"), Turn("assistant", "", (cut,)), Turn("tool", "It was cut.")]
        for template in (QWEN, LLAMA_3, PLAIN, None):
            written = rendered(template, turns, USES["auto"])
            assert json.dumps(cut.arguments, ensure_ascii=False) in written
    assert CITY.value == json.loads(CITY.arguments)
    assert (deep := TIME._replace(arguments="[" * 10**5)).value == deep.arguments


def test_the_next_prompt_begins_with_the_last_one_and_its_answer() -> None:
    """So that a worker need not read again what it has written."""
    for template, form in ((QWEN, MARKS), (PLAIN, HERMES)):
        before = [Turn("user", "Weather?")]
        text = form.call(CITY) + "\n" + form.call(TIME)
        parser = CallParser(form, USES["auto"])
        parser.push(text)
        after = [*before, Turn("assistant", "", tuple(parser.calls)), Turn("tool", "rain")]
        head = rendered(template, before, USES["auto"])
        following = rendered(template, after, USES["auto"])
        assert following.startswith(head)
        assert text in following


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tool(""),
        lambda: Tool('a"b'),
        lambda: Tool("x" * 129),
        lambda: Tool("x", "", {"type": "string"}),
        lambda: ToolUse(tools=(NOW, NOW)),
        lambda: ToolUse(tools=(NOW,), only=frozenset({"then"})),
    ],
)
def test_tools_that_cannot_be_used(make: Any) -> None:
    with pytest.raises(UsageError):
        make()


OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "open_text", "stays_open"),
    [
        (OBJECT, '{"b": 1}', False),
        ({"type": "array", "items": OBJECT}, '[{"b": 1}]', False),
        ({"anyOf": [OBJECT, {"type": "null"}]}, '{"b": 1}', False),
        ({"$defs": {"x": OBJECT}, "$ref": "#/$defs/x"}, '{"b": 1}', False),
        ({"type": "object"}, '{"b": 1}', True),
        ({**OBJECT, "additionalProperties": True}, '{"b": 1}', True),
        ({**OBJECT, "required": ["b"]}, '{"b": 1}', True),
        ({"allOf": [OBJECT, {"properties": {"b": {}}, "required": ["b"]}]}, '{"b": 1}', True),
        ({**OBJECT, "anyOf": [{"required": ["b"]}, {"required": ["c"]}]}, '{"b": 1}', True),
        ({"type": "object", "properties": {"properties": {"type": "integer"}}}, '{"b": 1}', False),
    ],
)
def test_a_schema_is_closed_where_it_does_not_say_otherwise(
    schema: dict[str, Any], open_text: str, stays_open: bool
) -> None:
    before = json.dumps(schema)
    assert taken(Grammar.from_json_schema(schema), open_text) is stays_open
    assert (fitted(schema) == schema) is stays_open
    assert json.dumps(schema) == before


def test_a_format_that_nothing_knows_says_nothing() -> None:
    for form, text in (("path", "x"), ("int64", "x"), ("date", "2026-11-29")):
        schema = {"allOf": [{"type": "string", "format": form}], "uniqueItems": False}
        assert taken(Grammar.from_json_schema(schema), json.dumps(text))
    assert not taken(Grammar.from_json_schema({"type": "string", "format": "date"}), '"x"')


def test_a_grammar_is_read_in_either_language() -> None:
    for text in ('start: "a" /[0-9]+/', 'root ::= "a" [0-9]+', 'root ::= first\nfirst ::= "a" [0-9]+\n'):
        grammar = in_lark(Grammar.from_text(text))
        assert taken(grammar, "a12")
        assert not taken(grammar, "a")
        assert in_lark(grammar) == grammar
    for wrong in (
        "",
        "nonsense %%",
        "root ::= (",
        "root ::= missing",
        "\n" * 200_000,
        'root ::= "a"' + " " * 40_000,
    ):
        with pytest.raises(GrammarError):
            in_lark(Grammar.from_text(wrong))
