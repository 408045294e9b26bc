"""YAML as recipes are written in it: the plain values of YAML 1.2, no code, nothing that grows or refers to itself."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Hashable
from typing import Any

import yaml

from auxtasks.errors import RecipeError

__all__ = ["LARGEST_FILE", "parse_yaml", "printable", "write_yaml"]

LARGEST_FILE = 1_000_000  # bytes
_DEEPEST = 50
_MOST_VALUES = 100_000  # with each alias counted as what it stands for
_MOST_DIGITS = 100

_NULL = re.compile(r"^(~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(true|True|false|False)$")
_INT = re.compile(r"^[-+]?[0-9]+$")
_FLOAT = re.compile(r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$")
_TAG = "tag:yaml.org,2002:"


def parse_yaml(text: str, where: str) -> Any:
    """Return what a YAML text says.

    Args:
        text: one document.
        where: its file or key, for messages.

    Raises:
        RecipeError: no YAML, a tag that would be code, a key given twice, or more values than a recipe could need.

    Example:
        >>> parse_yaml("{rate: 1e-3, day: 2020-01-01, answer: no}", "here")
        {'rate': 0.001, 'day': '2020-01-01', 'answer': 'no'}
    """
    if len(text) > LARGEST_FILE:
        raise RecipeError([f"{where}: a recipe has at most {LARGEST_FILE:,} characters, found {len(text):,}"])
    try:
        loader = _Loader(text)
        loader.name = where
        return _unshared(loader.get_single_data())
    # The last two are of an escape such as "\U00110000", beyond the last character there is.
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        told = " ".join(str(error).replace(' in "<unicode string>",', " at").split())
        raise RecipeError([f"{where}: not valid YAML: {told}"]) from error


def _unshared(value: Any) -> Any:
    """Copy what aliases share, so that an override of the one leaves the other alone."""
    if isinstance(value, dict):
        return {key: _unshared(entry) for key, entry in value.items()}
    return [_unshared(entry) for entry in value] if isinstance(value, list) else value


def write_yaml(value: object) -> str:
    r"""Return plain values as YAML that `parse_yaml` reads back as the same.

    Example:
        >>> write_yaml({"rate": 1e-3, "label": "1e-3"})
        "rate: 0.001\nlabel: '1e-3'\n"
    """
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _unprintable(text: str) -> str | None:
    r"""Return the first character that no text has: of control, but for line breaks and tabs, or half of a pair.

    Example:
        >>> _unprintable("a\tb\n"), _unprintable("a\0b")
        (None, '\x00')
    """
    return next((each for each in text if unicodedata.category(each) in ("Cc", "Cs") and each not in "\t\n\r"), None)


def printable(text: str) -> str:
    r"""Return a text for a message, on one line.

    Example:
        >>> printable("a b"), printable("a\n"), printable("")
        ('a b', 'a\\n', '""')
    """
    shown = text if text.isprintable() else ascii(text)[1:-1]
    return shown if shown and shown == shown.strip() else f'"{shown}"'


class _Loader(yaml.SafeLoader):
    """Reads ``1e-3`` as a number and ``no`` as a word, as YAML 1.2 does, and refuses what is no plain value."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._above = 0
        # Of each finished node, how many values it is with all below it, and how many levels.
        self._measured: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose a node as the base class does, unless it is part of itself, or grows beyond any recipe."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        self._refuse(self._above >= _DEEPEST, f"more than {_DEEPEST} levels of nesting", mark)
        is_alias = self.check_event(yaml.AliasEvent)
        self._above += 1
        node = super().compose_node(parent, index)
        self._above -= 1
        self._refuse(is_alias and id(node) not in self._measured, "an alias that stands for what it is part of", mark)
        if not is_alias:
            self._measured[id(node)] = self._measure(node)
        values, levels = self._measured[id(node)]
        self._refuse(values > _MOST_VALUES, f"more than {_MOST_VALUES:,} values, with those of its aliases", mark)
        self._refuse(self._above + levels > _DEEPEST, f"more than {_DEEPEST} levels of nesting", mark)
        return node

    def _measure(self, node: yaml.Node | None) -> tuple[int, int]:
        inner: list[Any] = []
        if isinstance(node, yaml.SequenceNode):
            inner = node.value
        elif isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        found = [self._measured[id(part)] for part in inner]
        return 1 + sum(values for values, _ in found), 1 + max((levels for _, levels in found), default=0)

    @staticmethod
    def _refuse(is_wrong: bool, what: str, mark: yaml.Mark) -> None:
        if is_wrong:
            raise yaml.composer.ComposerError(None, None, what, mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, as the base class does, unless a key is given twice."""
        seen: set[object] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                continue  # the base class says what is wrong with it
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{key}" is given twice', key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """Build a text that can be printed and written to a file."""
        escaped = str(self.construct_scalar(node))
        # JSON writes what is beyond 16 bits as two halves.
        text = escaped.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        found = _unprintable(text)
        if found is not None:
            raise yaml.constructor.ConstructorError(None, None, f"a text with the character {found!a}", node.start_mark)
        return text

    def construct_plain(self, node: yaml.ScalarNode) -> int | float | bool | None:
        """Build a number, true, false or null, which a tag may also have called so."""
        text = str(self.construct_scalar(node))
        kind = node.tag.removeprefix(_TAG)
        pattern, build = _PLAIN[kind]
        if not pattern.match(text):
            raise yaml.constructor.ConstructorError(None, None, f"{text!r} is no {kind}", node.start_mark)
        if len(text) > _MOST_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, f"a number of {len(text):,} digits", node.start_mark)
        return build(text)


def _number(text: str) -> float:
    """Return a number as YAML writes it: infinity and what is no number begin with a dot."""
    return float(re.sub(r"\.(?=[a-zA-Z])", "", text))


_PLAIN: dict[str, tuple[re.Pattern[str], Callable[[str], int | float | bool | None]]] = {
    "null": (_NULL, lambda _: None),
    "bool": (_BOOL, lambda text: text.lower() == "true"),
    "int": (_INT, int),
    "float": (_FLOAT, _number),
}
# Tables of its own: those of SafeLoader have dates, sets and bytes, and others use them.
_Loader.yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (_TAG + "seq", _TAG + "map", None)}
_Loader.yaml_implicit_resolvers = {}
for _kind, _first in (("null", "~nN\0"), ("bool", "tTfF"), ("int", "-+0123456789"), ("float", "-+.0123456789")):
    _Loader.add_implicit_resolver(_TAG + _kind, _PLAIN[_kind][0], ["" if each == "\0" else each for each in _first])
    _Loader.add_constructor(_TAG + _kind, _Loader.construct_plain)
_Loader.add_constructor(_TAG + "str", _Loader.construct_text)


class _Dumper(yaml.SafeDumper):
    """Quotes also what only `_Loader` would take for a number."""

    def ignore_aliases(self, _: object) -> bool:
        """Write everything out."""
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Write what a plain or a folded text would lose between double quotes."""
        return self.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _Dumper.represent_text)
_Dumper.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+.0123456789"))
