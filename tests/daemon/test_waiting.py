"""All numbers that say how long to wait stand in one module."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ("flexspec_mq", "edge_node", "cloud_worker", "broker")
WAITS = {"timeout", "sleep", "wait", "wait_for", "settimeout", "create_connection", "call_later", "flush"}
WAITS |= {"Backoff", "Timeout", "ClientTimeout", "HTTPConnection", "wait_until", "wait_up"}
NAMED = ("timeout", "patience", "give_up", "grace", "backoff", "lease", "keepalive", "drain", "heartbeat")
LOOK = 0.1
"""Seconds; below them it is a loop that looks, and waits for nobody."""


def test_no_other_module_says_how_long_to_wait() -> None:
    paths = [path for name in PRODUCT for path in sorted((ROOT / name).rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT)}:{each}" for path in paths for each in numbers(path.read_text("utf-8"))
    ]
    assert not found, "take these from flexspec_mq.waiting"


def test_numbers_are_found_where_they_stand() -> None:
    source = """_SECONDS: Final = 3.0
asyncio.timeout(_SECONDS)
asyncio.sleep(min(left, 0.25))
asyncio.sleep(0.05)
ask(host, timeout=2.0)
def stop(timeout: float = 5.0) -> None: ...
class Settings:
    keepalive: int = 30
    retained: bool = True
asyncio.timeout(2 * waiting.CONNECT)
"""
    assert list(numbers(source)) == [2, 3, 5, 6, 8]


def numbers(source: str) -> Iterator[int]:
    """Lines where something waits for so many seconds, by a literal or by a constant of the same module."""
    tree = ast.parse(source)
    constants: dict[str, ast.expr] = {}
    for top in tree.body:
        target = top.targets[0] if isinstance(top, ast.Assign) else getattr(top, "target", None)
        if isinstance(top, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name) and top.value:
            constants[target.id] = top.value

    def says(value: ast.expr | None) -> bool:
        nodes = [] if value is None else [*ast.walk(value)]
        if any(isinstance(node, ast.Attribute) for node in nodes):
            return False  # of that module, or of settings
        stated = [constants.get(node.id) if isinstance(node, ast.Name) else node for node in nodes]
        values = [node.value for node in stated if isinstance(node, ast.Constant)]
        return any(isinstance(value, int | float) and value is not True and value >= LOOK for value in values)

    lines = set()
    for node in ast.walk(tree):
        stated: list[tuple[str, ast.expr | None]] = []
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            stated = [(name if name in WAITS else "", value) for value in node.args]
            stated += [
                (name if name in WAITS else keyword.arg or "", keyword.value) for keyword in node.keywords
            ]
        elif isinstance(node, ast.arguments):
            named = [*node.posonlyargs, *node.args][-len(node.defaults) or None :]
            stated = [(each.arg, value) for each, value in zip(named, node.defaults, strict=False)]
            stated += [
                (each.arg, value) for each, value in zip(node.kwonlyargs, node.kw_defaults, strict=True)
            ]
        elif isinstance(node, ast.AnnAssign):
            stated = [(getattr(node.target, "id", ""), node.value)]
        for name, value in stated:
            if (name in WAITS or any(word in name for word in NAMED)) and says(value):
                lines.add(value.lineno if value else 0)
    yield from sorted(lines)
