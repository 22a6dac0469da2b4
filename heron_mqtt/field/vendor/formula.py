"""Formulas of a mapping: arithmetic over named values, evaluated by simpleeval, never by Python itself.

What a formula may hold is a list of node types, checked when the mapping is loaded; so everything else
(attributes, subscripts, comprehensions, lambdas) is refused with its name before a run begins.
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
        lists: Names among ``names`` that are lists of numbers: for functions only.
        key: Where the formula stands.
    """

    def __init__(
        self,
        text: str,
        names: Sequence[str],
        complain: Complain,
        *,
        lists: Sequence[str] = (),
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
        bare = _outside_functions(tree.body, set(lists))
        if bare is not None:
            complain(key, f"{text!r}: {bare} is a list of numbers; say sum({bare}), avg, min, max or count")
        self.names = tuple(n for n in self.names if n not in _CONSTANTS)
        self._parsed = tree.body

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


def _outside_functions(node: ast.AST, lists: set[str]) -> str | None:
    """Return a name of a list that is used as if it were one number."""
    if isinstance(node, ast.Name):
        return node.id if node.id in lists else None
    if isinstance(node, ast.Call):
        nodes = [a for a in node.args if not isinstance(a, ast.Name)]
    else:
        nodes = list(ast.iter_child_nodes(node))  # type: ignore[arg-type]
    return next((found for n in nodes if (found := _outside_functions(n, lists)) is not None), None)


# -- operators and functions ---------------------------------------------------------------------------


def _of_numbers(function: Callable[[float, float], float], a: Any, b: Any) -> float:
    return function(_number(a), _number(b))


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
    ast.Add: partial(_of_numbers, operator.add),
    ast.Sub: partial(_of_numbers, operator.sub),
    ast.Mult: partial(_of_numbers, operator.mul),
    ast.Div: partial(_of_numbers, operator.truediv),
    ast.FloorDiv: partial(_of_numbers, operator.floordiv),
    ast.Mod: partial(_of_numbers, operator.mod),
    ast.Pow: partial(_of_numbers, _power),
    ast.USub: lambda a: -_number(a),
    ast.UAdd: _number,
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
        numbers += map(_number, value) if isinstance(value, list) else [_number(value)]
    if not numbers:
        raise ValueError("no number is there")
    return numbers


def _sum(*values: Any) -> float:
    return math.fsum(_all(values))


def _avg(*values: Any) -> float:
    numbers = _all(values)
    return math.fsum(numbers) / len(numbers)


def _count(*values: Any) -> float:
    return float(sum(len(v) if isinstance(v, list) else 1 for v in values))


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
