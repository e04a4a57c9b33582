"""A tokenizer that is made without transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerBase

Tokenizer: TypeAlias = "PlainTokenizer | PreTrainedTokenizerBase"
"""A tokenizer with the ids and texts of transformers' own."""

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Roles that a token may have, in transformers' order."""


_ROUNDS, _LONGEST = 100_000, 2**23
"""Rounds of a template's loops and macros, and characters that it writes, at most."""


class PlainTokenizer:
    """A tokenizer with the part of transformers' interface that texts need, and the same ids and texts.

    Attributes:
        special_tokens_map: role → token.
        chat_template: source of the template; None for a base model.
        model_max_length: tokens of a text.
        backend_tokenizer: the same tokenizer in the tokenizers library.
        around: ids that go before and behind a text; None leaves that to the library's tokenizer.
    """

    def __init__(self, backend: Backend, special: dict[str, Any], template: str | None, longest: int) -> None:
        self.around: tuple[Sequence[int], Sequence[int]] | None = None
        self.special_tokens_map = special
        self.chat_template = template
        self.model_max_length = longest
        self.backend_tokenizer = backend
        self._rounds = _Rounds()
        self._template = None if template is None else _compiled(template, self._rounds)

    def __len__(self) -> int:
        """Tokens of the vocabulary, added ones included."""
        return int(self.backend_tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        """Id → token that is not of the model's own vocabulary, or special."""
        return self.backend_tokenizer.get_added_tokens_decoder()

    @property
    def eos_token_id(self) -> int | None:
        """Id that ends a text."""
        eos = self.special_tokens_map.get("eos_token")
        return None if eos is None else self.backend_tokenizer.token_to_id(eos)

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of the tokens that have roles, each once."""
        ids = (self.backend_tokenizer.token_to_id(self.special_tokens_map.get(role, "")) for role in ROLES)
        return list(dict.fromkeys(token for token in ids if token is not None))

    def get_vocab(self) -> dict[str, int]:
        """Token → id."""
        return dict(self.backend_tokenizer.get_vocab(with_added_tokens=True))

    def convert_ids_to_tokens(self, ids: int) -> str | None:
        """The token of an id; None if there is none."""
        return self.backend_tokenizer.id_to_token(ids)

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Ids of a text; with what the tokenizer puts around each text, unless told otherwise."""
        if self.around is None or not add_special_tokens:
            return list(self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)
        before, after = self.around
        return [*before, *self.encode(text, add_special_tokens=False), *after]

    def decode(
        self,
        token_ids: list[int],
        *,
        skip_special_tokens: bool = False,
        clean_up_tokenization_spaces: bool = False,
    ) -> str:
        """The text of ids. Nothing is ever tidied up."""
        del clean_up_tokenization_spaces
        return str(self.backend_tokenizer.decode(token_ids, skip_special_tokens=skip_special_tokens))

    def apply_chat_template(
        self,
        conversation: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = False,
        return_dict: bool = False,
        tokenize: bool = True,
    ) -> list[int] | str:
        """Ids of a conversation, or its text.

        Raises:
            jinja2.TemplateError: The template refuses the turns, or writes or loops without end.
        """
        del return_dict
        assert self._template is not None  # noqa: S101  who asks has seen that there is one
        self._rounds.left, text = _ROUNDS, ""
        pieces = self._template.generate(
            messages=conversation,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            documents=None,
            **self.special_tokens_map,
        )
        try:
            for piece in pieces:
                text += piece
                if len(text) > _LONGEST:
                    raise _endless(f"{_LONGEST:,} characters")
        except RecursionError as error:
            raise _endless("as many calls of itself as can be") from error
        return self.encode(text, add_special_tokens=False) if tokenize else text


class _Rounds:
    """Counter of the rounds that loops and macros of a template have left."""

    left = 0

    def __call__(self) -> None:
        """Count one.

        Raises:
            jinja2.TemplateRuntimeError: There are no more.
        """
        self.left -= 1
        if self.left < 0:
            raise _endless(f"{_ROUNDS:,} rounds of its loops")


def _endless(most: str) -> Exception:
    from jinja2 import TemplateRuntimeError

    return TemplateRuntimeError(f"it goes on after {most}")


@lru_cache(32)
def template_variables(source: str) -> frozenset[str]:
    """Names that a template looks up from outside; none if it is no template."""
    from jinja2 import TemplateError, meta

    try:
        return frozenset(meta.find_undeclared_variables(_environment().parse(source)))
    except (TemplateError, RecursionError):
        return frozenset()


def _compiled(source: str, rounds: _Rounds) -> Any:
    """A template, which may be a stranger's and have no end."""
    from jinja2 import Template, nodes

    environment = _environment()
    environment.extend(rounds=rounds)
    tree = environment.parse(source)
    for block in tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock)):
        count = nodes.Call(nodes.EnvironmentAttribute("rounds"), [], [], None, None)
        block.body.insert(0, nodes.ExprStmt(count, lineno=block.lineno).set_environment(environment))
    return Template.from_code(environment, environment.compile(tree), environment.make_globals(None))


def _environment() -> Any:
    """Jinja's sandbox with all that transformers gives a chat template."""
    from jinja2 import TemplateError, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """Tag around what the model writes: a mark for training, which changes no text."""

        tags = {"generation"}  # noqa: RUF012  jinja reads it from the class

        def parse(self, parser: Any) -> nodes.Node:
            line = next(parser.stream).lineno
            return nodes.Scope(
                parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line
            )

    class SafeNamespace(Namespace):
        """A namespace without Python's own attributes."""

        def __init__(self, /, *values: Any, **named: Any) -> None:
            super().__init__()
            for name, value in dict(*values, **named).items():
                self[name] = value

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise SecurityError(f"a chat template may not set {name!r}")
            super().__setitem__(name, value)

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    def make_dict(*values: Any, **named: Any) -> dict[Any, Any]:
        """The class itself would show its methods to a template."""
        return dict(*values, **named)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)  # noqa: DTZ005  local
    environment.globals["dict"] = make_dict
    environment.globals["namespace"] = SafeNamespace
    return environment
