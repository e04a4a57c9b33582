"""A chat template that can be rendered, or why it cannot be."""

from __future__ import annotations

from functools import lru_cache
from threading import Lock
from typing import Any

from jinja2 import Template, TemplateError, TemplateRuntimeError, meta, nodes
from jinja2.visitor import NodeTransformer

from flexspec_mq.models.templates.sandbox import Sandbox, too_much

_LONGEST, _NODES = 2**17, 10_000
"""Characters of a template, and nodes of its syntax tree: ten times those of the longest ones."""


class ChatTemplate:
    """A template, for one rendering at a time.

    Args:
        source: text of the template.

    Attributes:
        variables: names that it looks up from outside.

    Raises:
        TemplateError: it is none, or too long or deep.
    """

    def __init__(self, source: str) -> None:
        self._sandbox, self._lock = Sandbox(), Lock()
        try:
            tree = self._parsed(source)
            self.variables = frozenset(meta.find_undeclared_variables(tree))
            tree = _Counting().visit(tree).set_environment(self._sandbox)
            code = self._sandbox.compile(tree)
        except TemplateError:
            raise
        except Exception as error:  # a stranger's text, in which a compiler may find anything
            raise TemplateRuntimeError(f"{type(error).__name__}: {error}") from error
        self._template = Template.from_code(self._sandbox, code, self._sandbox.make_globals(None))

    def _parsed(self, source: str) -> nodes.Template:
        if len(source) > _LONGEST:
            raise too_much(f"{_LONGEST:,} characters")
        tree = self._sandbox.parse(source)
        if sum(1 for _ in tree.find_all(nodes.Node)) > _NODES:
            raise too_much(f"{_NODES:,} nodes")
        return tree

    def render(self, **variables: Any) -> str:
        """The text of a conversation.

        Raises:
            TemplateError: the template refuses it, has an error, or takes too much.
        """
        with self._lock:
            self._sandbox.begin()
            try:
                return "".join(self._template.generate(**variables))
            except TemplateError:
                raise
            except RecursionError as error:
                raise TemplateRuntimeError("it calls itself without end") from error
            except Exception as error:  # a stranger's program, which may raise anything
                raise TemplateRuntimeError(f"{type(error).__name__}: {error}") from error


chat_template = lru_cache(32)(ChatTemplate)
"""The template of a text; those that were used last are kept."""


class _Counting(NodeTransformer):
    """Has all that the sandbox does not see counted: rounds, literals, slices, comparisons and the text between."""

    def generic_visit(self, node: nodes.Node, *args: Any, **kwargs: Any) -> nodes.Node:
        node = super().generic_visit(node, *args, **kwargs)
        if isinstance(node, nodes.Call | nodes.Filter | nodes.Test) and node.dyn_args is not None:
            node.dyn_args = _filter(node.dyn_args, "list")
        if isinstance(node, nodes.For | nodes.Macro | nodes.CallBlock):
            round_ = _filter(nodes.Const(None, lineno=node.lineno), "counted")
            node.body.insert(0, nodes.ExprStmt(round_, lineno=node.lineno))
        if isinstance(node, nodes.Concat):
            return _filter(nodes.List(node.nodes, lineno=node.lineno), "join")
        counted = isinstance(node, nodes.List | nodes.Dict | nodes.Compare | nodes.TemplateData)
        counted |= isinstance(node, nodes.Tuple) and node.ctx == "load"
        counted |= isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        return _filter(node, "counted") if counted else node

    def visit_ScopedEvalContextModifier(self, _: nodes.Node) -> nodes.Node:  # noqa: N802  jinja's name
        raise TemplateRuntimeError("it escapes texts, as no chat template does")


def _filter(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
