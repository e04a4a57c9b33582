"""Chat templates of strangers: each is rendered or refused within bounds of memory and processor time."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from flexspec_mq.errors import UsageError
from flexspec_mq.models.text import Turn, render_turns
from flexspec_mq.models.tokenizer import PlainTokenizer

MEGABYTES, SECONDS = 256, 8
"""Bounds of a rendering in a process of its own; ours are half of these, as allocators and other machines differ."""
NESTED = (
    "{% set ns = namespace(x=['aaaaaaaa'], y=['aaaaaaaa']) %}{% for i in range(60) %}"
    "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
)
GROWS = (
    "{{% set ns = namespace(x={value}) %}}"
    "{{% for i in range(40) %}}{{% set ns.x = ns.x {operator} ns.x %}}{{% endfor %}}{{{{ [ns.x]|length }}}}"
)
HOSTILE = {
    "text times a number": "{{ 'a' * 500000000 }}",
    "list times a number": "{{ ([0] * 500000000)|length }}",
    "power": "{{ 7**(10**8) % 3 }}",
    "power of a power": "{{ 9**9**9 % 3 }}",
    "squares": GROWS.format(value=7, operator="*"),
    "doubled by tilde": GROWS.format(value="'a'", operator="~"),
    "doubled by plus": GROWS.format(value="'a'", operator="+"),
    "width": "{{ '%500000000d' % 1 }}",
    "width by an argument": "{{ '%*d' % (500000000, 1) }}",
    "precision": "{{ '%.500000000f' % 1.5 }}",
    "width by a name": "{{ '%(a)500000000s' % {'a': 1} }}",
    "filter format": "{{ '%500000000s'|format('x') }}",
    "method format": "{{ '{:>500000000}'.format('x') }}",
    "format within a format": "{{ '{:>{}}'.format('x', 500000000) }}",
    "center": "{{ 'x'.center(500000000) }}{{ 'x'|center(500000000) }}",
    "ljust": "{{ 'x'.ljust(500000000) }}",
    "zfill": "{{ 'x'['zfill'](500000000) }}",
    "attribute": "{{ ('x'|attr('rjust'))(500000000) }}",
    "indent": "{{ ('x\\n' * 100000)|indent(100000) }}",
    "indent by a text": "{{ ('x\\n' * 100000)|indent('y' * 100000) }}",
    "filter replace": "{{ ('a' * 100000)|replace('a', 'b' * 100000) }}",
    "method replace": "{{ ('a' * 100000).replace('', 'b' * 100000) }}",
    "filter join": "{{ range(100000)|join('x' * 100000) }}",
    "method join": "{{ ('x' * 100000).join('a' * 100000) }}",
    "map of joins": "{{ range(100000)|map('string')|map('center', 100000)|join }}",
    "lists in lists": NESTED + "{{ ns.x }}",
    "lists compared": NESTED + "{{ ns.x == ns.y }}",
    "lists as a text": NESTED + "{{ ns.x|upper }}",
    "lists as JSON": NESTED + "{{ ns.x|tojson }}",
    "tuples as a key": NESTED.replace("[", "(").replace("]", ")") + "{{ {ns.x: 1}|length }}",
    "JSON indented": "{{ [[1]]|tojson(indent=500000000) }}",
    "JSON separated": "{{ range(100000)|list|tojson(separators=('x' * 100000, 'y')) }}",
    "long range": "{{ range(500000000)|list|length }}",
    "hashes that collide": "{{ range(0, 2305843009213693951 * 100000, 2305843009213693951)|unique|list|length }}",
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "macros": "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
    "blocks": "{% block f %}{{ self.f() }}{{ self.f() }}{% endblock %}",
    "rounding": "{{ 5|round(-500000000) }}",
    "search from the end": "{{ ('a' * 4000000).rfind('a' * 1000000 ~ 'b' ~ 'a' * 1000000) }}",
    "method strip": "{{ ('a' * 4000000).strip('b' * 4000000 ~ 'a')|length }}",
    "filter trim": "{{ ('a' * 4000000)|trim('b' * 4000000 ~ 'a')|length }}",
    "bytes of a number": "{{ (1).to_bytes(500000000, 'big')|length }}",
    "tabs": "{{ ('\\t' * 1000).expandtabs(500000)|length }}",
    "translate": "{{ ('a' * 100000).translate({97: 'b' * 100000})|length }}",
    "encode": "{{ ('\\u00fc' * 4000000).encode('punycode')|length }}",
    "words without end": "{{ lipsum(500000000) }}",
    "batch": "{{ [1]|batch(500000000, 'x')|list|length }}",
    "sum of lists": "{{ ([[1]] * 300000)|sum(start=[])|length }}",
    "split": "{{ ('ab ' * 5000000).split()|length }}",
    "characters": "{{ ('\\U0001f600' * 4000000)|list|length }}",
    "characters as arguments": "{{ dict(*('\\U0001f600' * 4000000)) }}",
    "texts kept": (
        "{% set ns = namespace(x=[]) %}{% for i in range(3000) %}"
        "{% set ns.x = ns.x + ['a' * 1000000 ~ i] %}{% endfor %}"
    ),
    "slices kept": (
        "{% set ns = namespace(x=[], y='a' * 4000000) %}{% for i in range(3000) %}"
        "{% set ns.x = ns.x + [ns.y[i:]] %}{% endfor %}"
    ),
    "block kept": "{% set x %}{% for i in range(99999) %}" + "y" * 50_000 + "{% endfor %}{% endset %}{{ x|length }}",
    "generators in generators": (
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x|map('string') %}{% endfor %}"
        "{{ ns.x|first }}"
    ),
    "macros in macros": (
        "{% set ns = namespace(m=1) %}{% macro make(p) %}{% macro inner() %}{{ p }}{% endmacro %}"
        "{% set ns.m = inner %}{% endmacro %}{% for i in range(99999) %}{{ make(ns.m) }}{% endfor %}"
    ),
    "one expression": "{% set a = 'x' * 4000000 %}{{ [" + "a == a ~ 'x', " * 9_000 + "1]|length }}",
    "constants": "{{ " + " ~ ".join(["'a'|center(8000000)"] * 300) + " }}",
    "dates": "{{ strftime_now('%c' * 4000000)|length }}",
    "words of a refusal": "{{ raise_exception('a' * 16000000) }}",
    "deep loops": "{% for i in x %}" * 30 + "{% endfor %}" * 30,
    "deep lists": "{{ " + "[" * 3_000 + "]" * 3_000 + " }}",
    "long source": "{{ a }}" * 500_000,
    "escapes": "{% autoescape true %}{{ '<' * 16000000 }}{% endautoescape %}",
    "JSON of controls": "{{ ('\\x01' * 16000000)|tojson|length }}",
    "number of a text": "{{ ('f' * 16000000)|int(base=16) % 12345678912345678 }}",
}  # fmt: skip


def tokenizer(template: str) -> PlainTokenizer:
    return PlainTokenizer(Tokenizer(BPE(vocab={"a": 0}, merges=[])), {}, template, 100)


def outcome(template: str) -> str:
    """Whether a template is rendered, or why it is refused."""
    try:
        return f"{len(render_turns(tokenizer(template), [Turn('user', 'hello')]))} characters"
    except TemplateError as error:
        return f"unreadable: {error}"
    except UsageError as error:
        return f"refused: {error.message}"


@pytest.fixture(scope="module")
def renderer() -> Iterator[subprocess.Popen[str]]:
    """A process that forks for each template, under limits of the system."""
    command = [sys.executable, str(Path(__file__).with_name("render_hostile.py"))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_refused_or_rendered_within_bounds(
    renderer: subprocess.Popen[str], name: str
) -> None:
    assert renderer.stdin is not None
    assert renderer.stdout is not None
    renderer.stdin.write(json.dumps(HOSTILE[name]) + "\n")
    renderer.stdin.flush()
    told = json.loads(renderer.stdout.readline())
    assert "died" not in told, f"{told}, of {SECONDS} s and {MEGABYTES} MB"
    assert len(told["outcome"]) < 600
    assert "MemoryError" not in told["outcome"]


USED = (
    "{{ '%s has %d and %5.2f' % ('it', 3, 1.5) }}{{ '{} {:>5} {!r}'.format('a', 'b', 'c') }}{{ 'ab' * 3 }}{{ 2 ** 10 }}"
    "{{ 'a,b,c'.split(',')|join('; ') }}{{ 'x\ny'|indent(2, true) }}{{ 'né'.upper().center(9, '*') }}{{ 7 // 2 % 2 }}"
    "{{ messages|map(attribute='role')|unique|list }}{{ messages|selectattr('role', 'equalto', 'user')|list|length }}"
    "{{ messages[0].items()|list|tojson(indent=2) }}{{ {'b': 1, 'a': [none, true, 1.5]}|dictsort }}"
    "{{ [3, 1]|sort|first ~ [1, 2][::-1]|string }}{{ 'a' ~ 1 ~ none ~ [1] ~ missing }}"
    "{{ ' x '|trim|title|replace('X', 'y') }}"
    "{% for a, b in [('k', 1), ('l', 2)] %}{{ loop.index }}{{ a }}{{ b }}{{ loop.cycle('-', '+') }}{% endfor %}"
    "{% macro f(x, y=2) %}[{{ x }}{{ y }}{{ varargs }}{{ caller() if caller }}]{% endmacro %}{{ f(*[1, 2, 3]) }}"
    "{% call f(1) %}in{% endcall %}{% set b %}block{{ 1 }}{% endset %}{{ b|upper }}{% filter lower %}ABC{% endfilter %}"
    "{{ ('<'|safe) + '<' }}{{ '<'|e }}{{ 'a' in 'abc' and 'user' in ['user'] and not 'x' is defined }}"
    "{{ 1.0|round(1) }}"
    "{{ messages[-1]['content'].strip().startswith('h') }}{{ 'a\nb'.splitlines() }}{{ 'abc'[1:] }}{{ -3|abs }}"
)  # fmt: skip


def test_what_is_bounded_is_written_as_transformers_writes_it() -> None:
    turns = [Turn("user", "hello"), Turn("assistant", "yes"), Turn("user", " how é \N{GRINNING FACE}")]
    theirs = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(BPE(vocab={"a": 0}, merges=[])), chat_template=USED
    )
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert render_turns(tokenizer(USED), turns) == render_turns(theirs, turns) == expected


def test_a_long_conversation_is_written() -> None:
    """Two megabytes, which a template copies some times."""
    template = (
        "{% set ns = namespace(all=[]) %}{% for m in messages %}{% set ns.all = ns.all + [m] %}{% endfor %}"
        "{% for m in ns.all %}{{ '<' + m['role'] + '>' + m['content']|trim + '</' ~ m.role ~ '>' }}{% endfor %}"
    )
    turns = [Turn("user" if at % 2 == 0 else "assistant", "word " * 800) for at in range(501)]
    assert len(render_turns(tokenizer(template), turns)) > 2_000_000
