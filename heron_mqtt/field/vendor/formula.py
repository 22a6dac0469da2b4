"""Formulas of a mapping: arithmetic over named values, evaluated by simpleeval, never by Python itself.

The allowed parts of a formula are a list of node types, which is checked when the mapping is loaded.
Everything else (attributes, subscripts, comprehensions, lambdas) is refused with its name before a run
begins.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from simpleeval import InvalidExpression, SimpleEval

from heron_mqtt.errors import MessageError
from heron_mqtt.field.vendor.units import Complain

MAX_NODES = 200
MAX_DEPTH = 20
MAX_EXPONENT = 16.0
MAX_TEXT = 200

Result = float | str | bool

_NODES = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.IfExp, ast.Call, ast.Name),
    *(ast.Constant, ast.Load, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow),
    *(ast.USub, ast.UAdd, ast.Not, ast.And, ast.Or, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE),
)
_SHOWN = {
    ast.Attribute: "a point between names",
    ast.Subscript: "square brackets behind a name",
    ast.BitXor: "^ (a power is **)",
    ast.BitAnd: "& (say: and)",
    ast.BitOr: "| (say: or)",
    ast.List: "a list",
    ast.Tuple: "a comma outside a function",
    ast.keyword: "a named argument",
}
_CONSTANTS = {"true": True, "false": False, "pi": math.pi}


class Formula:
    """An expression, checked when it is made.

    Args:
        text: As the mapping has it.
        names: What it may use.
        complain: Takes note of mistakes, at ``key``; the formula is then not to be evaluated.
        lists: Names among ``names`` that are lists of numbers: arithmetic is done number by number, and a
            function such as sum makes one number of them.
        loose: Names among ``lists`` whose numbers close up where one is missing: they cannot be paired.
        key: Where the formula stands.
    """

    def __init__(
        self,
        text: str,
        names: Sequence[str],
        complain: Complain,
        *,
        lists: Sequence[str] = (),
        loose: Sequence[str] = (),
        key: str = "formula",
    ) -> None:
        self.text = text
        self.names: tuple[str, ...] = ()
        """The names that it uses, each once."""
        self._parsed: ast.expr | None = None
        self._evaluator = SimpleEval(operators=_OPERATORS, functions=FUNCTIONS, names={}, allowed_attrs={})
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as exc:
            what = exc.msg if isinstance(exc, SyntaxError) else str(exc)
            complain(key, f"{text!r} is not a formula: {what}; a formula looks like: a - 0.5 * (b + c)")
            return
        problem = _forbidden(tree)
        if problem is not None:
            complain(key, f"{text!r}: {problem}")
            return
        used = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        functions = {id(node.func): node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call)}  # type: ignore[attr-defined]
        for name in dict.fromkeys(functions.values()):
            if name not in FUNCTIONS:
                complain(key, f"{text!r}: there is no function {name}(); there are {', '.join(FUNCTIONS)}")
                return
        self.names = tuple(dict.fromkeys(n.id for n in used if id(n) not in functions))
        unknown = [n for n in self.names if n not in names and n not in _CONSTANTS]
        for name in unknown:
            close = difflib.get_close_matches(name, names)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names) or 'none'}"
            complain(key, f"{text!r}: nothing is called {name}; {hint}")
        problem = _Lists(lists, loose).problem(tree.body)
        if problem is not None:
            complain(key, f"{text!r}: {problem}")
        self.names = tuple(n for n in self.names if n not in _CONSTANTS)
        self._parsed = tree.body

    @property
    def is_sound(self) -> bool:
        """Whether it could be read as a formula; what it names may still be unknown."""
        return self._parsed is not None

    def evaluate(self, values: Mapping[str, Any]) -> Result:
        """Return the value of the formula: a finite number, a text, or true/false.

        Raises:
            MessageError: It has none for these values, as with a division by zero.
        """
        self._evaluator.names = {**_CONSTANTS, **values}
        try:
            result = self._evaluator.eval(self.text, previously_parsed=self._parsed)
        except ZeroDivisionError:
            raise MessageError(f"{self.text}: a division by zero") from None
        except (InvalidExpression, ArithmeticError, TypeError, ValueError, RecursionError) as exc:
            raise MessageError(f"{self.text}: {' '.join(str(exc).split())}") from None
        if isinstance(result, bool | str):
            return result
        if isinstance(result, int | float):
            try:
                value = float(result)
            except OverflowError:
                value = math.inf
            if math.isfinite(value):
                return value + 0.0
        raise MessageError(f"{self.text}: the result is no finite number")


def _forbidden(tree: ast.Expression) -> str | None:
    nodes = list(ast.walk(tree))
    if len(nodes) > MAX_NODES or _depth(tree) > MAX_DEPTH:
        return f"too long: at most {MAX_NODES} parts, {MAX_DEPTH} within each other; make it two formulas"
    for node in nodes:
        if isinstance(node, ast.Call) and (not isinstance(node.func, ast.Name) or node.keywords):
            return "a function is a name with values in brackets: max(a, b)"
        if not isinstance(node, _NODES):
            return f"{_SHOWN.get(type(node), type(node).__name__)} cannot be used in a formula"
        if isinstance(node, ast.Constant) and (
            not isinstance(node.value, int | float | str | bool)
            or (isinstance(node.value, str) and len(node.value) > MAX_TEXT)
            or (isinstance(node.value, int) and abs(node.value) > 1 << 64)
        ):
            return f"{ast.unparse(node)[:40]} cannot be used in a formula"
    return None


def _depth(node: ast.AST) -> int:
    return 1 + max(map(_depth, ast.iter_child_nodes(node)), default=0)


class _Lists:
    """Finds a list of numbers in a formula where one number is needed.

    Args:
        lists: Names of lists.
        loose: Those of them that cannot be paired number by number.
    """

    def __init__(self, lists: Sequence[str], loose: Sequence[str]) -> None:
        self._lists = frozenset(lists)
        self._loose = frozenset(loose)

    def problem(self, tree: ast.expr) -> str | None:
        """Return what is wrong in a formula, whose result is one number; None if nothing."""
        return self._within(tree) or self._bare(tree)

    def _bare(self, node: ast.expr) -> str | None:
        found = sorted(self._in(node))
        if not found:
            return None
        what = ast.unparse(node)
        because = "" if what == found[0] else f", as {found[0]} is"
        return f"{what} is a list of numbers{because}; say sum({what}), avg, min, max or count"

    def _in(self, node: ast.AST) -> frozenset[str]:
        """Return the lists that make the value of a node a list; empty = it is one value."""
        match node:
            case ast.Name(id=name):
                return self._lists & {name}
            case ast.Call() | ast.Compare() | ast.BoolOp() | ast.Constant():
                return frozenset()
            case ast.IfExp(body=body, orelse=orelse):
                return self._in(body) | self._in(orelse)
        return frozenset[str]().union(*map(self._in, ast.iter_child_nodes(node)))

    def _within(self, node: ast.AST) -> str | None:
        children: list[ast.expr] = [c for c in ast.iter_child_nodes(node) if isinstance(c, ast.expr)]
        match node:
            case ast.Call(func=ast.Name(id=name), args=args):
                children = args
                if name not in OF_LISTS and (found := self._first(args)) is not None:
                    return found
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp(op=ast.Not()):
                if (found := self._first(children)) is not None:
                    return found
            case ast.IfExp(test=test):
                if (found := self._bare(test)) is not None:
                    return found
            case ast.BinOp(left=left, right=right):
                both = self._in(left), self._in(right)
                loose = sorted((both[0] | both[1]) & self._loose)
                if all(both) and both[0] != both[1] and loose:
                    return (
                        f"{ast.unparse(node)} pairs the numbers of two lists, and the path of {loose[0]} "
                        "leaves out missing values, so the wrong numbers would be paired; "
                        'write its path with map: "map(&voltage, packs)" for "packs[*].voltage"'
                    )
        return next((found for c in children if (found := self._within(c)) is not None), None)

    def _first(self, nodes: Sequence[ast.expr]) -> str | None:
        return next((found for n in nodes if (found := self._bare(n)) is not None), None)


# -- operators and functions ---------------------------------------------------------------------------


def _of_numbers(function: Callable[[float, float], float], a: Any, b: Any) -> float:
    return function(_number(a), _number(b))


def _each(function: Callable[[float, float], float], a: Any, b: Any) -> Any:
    """Return the result of two numbers, or of lists of them number by number; what is missing stays so."""
    if not isinstance(a, list) and not isinstance(b, list):
        return function(_number(a), _number(b))
    if isinstance(a, list) and isinstance(b, list) and len(a) != len(b):
        raise ValueError(f"lists of {len(a)} and {len(b)} numbers, expected as many in both")
    size = len(a) if isinstance(a, list) else len(b)
    pairs = zip(*(x if isinstance(x, list) else [x] * size for x in (a, b)), strict=True)
    return [None if x is None or y is None else function(_number(x), _number(y)) for x, y in pairs]


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise TypeError(f"{value[:40]!r} is a text, expected a number")
    if isinstance(value, list):
        raise TypeError("a list of numbers, expected one number")
    return float(value)


def _power(a: float, b: float) -> float:
    if abs(b) > MAX_EXPONENT:
        raise ValueError(f"an exponent of {b:g}; at most {MAX_EXPONENT:g}")
    result = a**b
    if isinstance(result, complex):
        raise TypeError(f"{a:g} ** {b:g} is no real number")
    return float(result)


_OPERATORS = {
    ast.Add: partial(_each, operator.add),
    ast.Sub: partial(_each, operator.sub),
    ast.Mult: partial(_each, operator.mul),
    ast.Div: partial(_each, operator.truediv),
    ast.FloorDiv: partial(_each, operator.floordiv),
    ast.Mod: partial(_each, operator.mod),
    ast.Pow: partial(_each, _power),
    ast.USub: lambda a: _each(operator.mul, -1.0, a),
    ast.UAdd: lambda a: _each(operator.mul, 1.0, a),
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: partial(_of_numbers, operator.lt),
    ast.LtE: partial(_of_numbers, operator.le),
    ast.Gt: partial(_of_numbers, operator.gt),
    ast.GtE: partial(_of_numbers, operator.ge),
}


def _all(values: Sequence[Any]) -> list[float]:
    numbers: list[float] = []
    for value in values:
        numbers += (
            [_number(v) for v in value if v is not None] if isinstance(value, list) else [_number(value)]
        )
    if not numbers:
        raise ValueError("no number is there")
    return numbers


def _sum(*values: Any) -> float:
    return math.fsum(_all(values))


def _avg(*values: Any) -> float:
    numbers = _all(values)
    return math.fsum(numbers) / len(numbers)


def _count(*values: Any) -> float:
    return float(sum(sum(e is not None for e in v) if isinstance(v, list) else 1 for v in values))


def _round(value: Any, decimals: Any = 0) -> float:
    return round(_number(value), int(_number(decimals)))


def _whole(value: Any) -> int:
    number = _number(value)
    if number != int(number):
        raise ValueError(f"{number:g} is not a whole number")
    return int(number)


def signed(value: Any, bits: Any) -> float:
    """Return the signed number that ``bits`` bits hold which were read as unsigned."""
    number, size = _whole(value), _whole(bits)
    if not 1 <= size <= 64:
        raise ValueError(f"{size} bits; expected 1 to 64")
    if not -(1 << (size - 1)) <= number < 1 << size:
        raise ValueError(f"{number} does not fit into {size} bits")
    return float(number - (1 << size) if number >= 1 << (size - 1) else number)


def _bit(value: Any, n: Any) -> bool:
    number, place = _whole(value), _whole(n)
    if not 0 <= place < 64:
        raise ValueError(f"bit {place}; expected 0 to 63")
    return bool(number >> place & 1)


def _clip(value: Any, low: Any, high: Any) -> float:
    return min(max(_number(value), _number(low)), _number(high))


def _sign(value: Any) -> float:
    number = _number(value)
    return float((number > 0.0) - (number < 0.0))


OF_LISTS = frozenset({"min", "max", "sum", "avg", "count"})
"""Functions that make one number of lists."""

FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": lambda a: abs(_number(a)),
    "min": lambda *a: min(_all(a)),
    "max": lambda *a: max(_all(a)),
    "sum": _sum,
    "avg": _avg,
    "count": _count,
    "round": _round,
    "floor": lambda a: float(math.floor(_number(a))),
    "ceil": lambda a: float(math.ceil(_number(a))),
    "sqrt": lambda a: math.sqrt(_number(a)),
    "sin": lambda a: math.sin(_number(a)),
    "cos": lambda a: math.cos(_number(a)),
    "sign": _sign,
    "clip": _clip,
    "signed": signed,
    "bit": _bit,
}
"""What a formula may call."""
