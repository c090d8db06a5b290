"""YAML from outside as plain values: the one parser, with one error, and the line where there is one.

Dates stay text (`2024-13-45` would end PyYAML, and JSON has none), a key that stands twice is refused, and aliases
count as often as they are used, so that a few lines can't stand for gigabytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from fusery.runtime.errors import InvalidInput

MOST_DEPTH = 100
MOST_NODES = 100_000
_MOST_DIGITS = 40
_DATES = "tag:yaml.org,2002:timestamp"


class NotYaml(InvalidInput, ValueError):
    """A text that is no YAML, or YAML that nothing here can hold; `line` counts from 1, None: not known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class ParsedYaml:
    """A text's value, and its nodes, which know their lines; None: the text is empty."""

    value: Any
    root: yaml.Node | None


def parse_yaml(content: str | bytes) -> ParsedYaml:
    """What `content` spells: mappings, lists, text, numbers, booleans and null.

    Raises:
        NotYaml: no YAML, not UTF-8, a key twice, nested too deeply, an alias of itself, values that Python lacks.
    """
    try:
        text = content.decode() if isinstance(content, bytes) else content
        loader = _Loader(text.removeprefix("\ufeff"))
        try:
            root = loader.get_single_node()
            _check_size(root)
            return ParsedYaml(None if root is None else loader.construct_document(root), root)
        finally:
            loader.dispose()
    except RecursionError:
        raise NotYaml("nested too deeply") from None
    except UnicodeDecodeError as error:
        raise NotYaml(f"not UTF-8 text: {error.reason} at byte {error.start}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise NotYaml(error.problem or str(error), None if mark is None else mark.line + 1) from error
    except yaml.YAMLError as error:
        raise NotYaml(" ".join(str(error).split())) from error


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, whose every error is one of PyYAML's and names a line."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, str):
                value.encode()
        except UnicodeEncodeError:
            raise _wrong("half of a surrogate pair is no character", node) from None
        except (ValueError, TypeError, LookupError, ArithmeticError, AttributeError) as error:
            raise _wrong(f"{str(node.value)[:40]!r} can't be read as {node.tag.rpartition(':')[2]}", node) from error
        if isinstance(value, int) and abs(value) >= 10**_MOST_DIGITS:
            raise _wrong(f"an integer of more than {_MOST_DIGITS} digits", node)
        return value


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != _DATES]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _wrong(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _check_size(root: yaml.Node | None) -> None:
    """Counts nodes with aliases written out; a RecursionError where one holds itself. No key stands twice."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node, depth: int = 1) -> int:
        if isinstance(node, yaml.ScalarNode):
            return 1
        if depth > MOST_DEPTH:
            raise RecursionError
        if id(node) not in sizes:
            if isinstance(node, yaml.MappingNode):
                _check_keys(node)
            parts = node.value if isinstance(node, yaml.SequenceNode) else [n for pair in node.value for n in pair]
            sizes[id(node)] = 1 + sum(size(part, depth + 1) for part in parts)
        return sizes[id(node)]

    if root is not None and size(root) > MOST_NODES:
        raise NotYaml(f"more than {MOST_NODES} values, aliases written out")


def _check_keys(node: yaml.MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise _wrong(f"the key {key.value[:40]!r} stands twice; leave one of them in", key)
            seen.add((key.tag, key.value))
