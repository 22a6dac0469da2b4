"""Almost-JSON, as devices send it, made JSON: nan, empty values, Python's literals, trailing commas.

One pass over the tokens; nothing is guessed beyond what is listed in docs/device-mappings.md.
"""

from __future__ import annotations

import re

from pydantic_core import to_json

_PIECE = re.compile(
    r"""
    (?P<space>\s+)
  | (?P<double>"(?:[^"\\]|\\.)*")
  | (?P<single>'(?:[^'\\]|\\.)*')
  | (?P<mark>[{}\[\]:,()])
  | (?P<bare>[^\s{}\[\]:,()"']+)
  | (?P<stray>["'])
    """,
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_LITERALS = {"true": "true", "false": "false", "null": "null", "none": "null", "undefined": "null"}
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "a": "\a", "v": "\v", "0": "\0"}


def to_strict(text: str) -> str:
    """Return JSON for a text that is almost JSON; what is not understood stays, for the parser to refuse.

    Null: ``nan`` and ``inf`` in any case, ``None``, ``undefined`` and missing values. Booleans: ``True`` and
    ``False``. Numbers: ``.5``, ``+3`` and ``007``. Single quotes become double ones. A comma before a closing
    bracket is dropped. Round brackets become square ones.
    """
    out: list[str] = []
    before = ""  # the last mark or "value"
    for match in _PIECE.finditer(text):
        kind, piece = match.lastgroup, match[0]
        if kind == "space":
            continue
        if kind == "mark":
            piece = {"(": "[", ")": "]"}.get(piece, piece)
            if (piece in "]}," and before == ":") or (piece == "," and before in {"[", ","}):
                out.append("null")
            elif piece in "]}" and before == ",":
                out.pop()
            out.append(piece)
            before = piece
            continue
        before = "value"
        out.append(_value(kind, piece))
    return "".join(out)


def _value(kind: str | None, piece: str) -> str:
    if kind == "double" and not _needs_work(piece):
        return piece
    if kind in {"double", "single"}:
        return to_json(_ESCAPE.sub(_character, piece[1:-1])).decode()
    lower = piece.lower()
    if lower in _LITERALS:
        return _LITERALS[lower]
    if lower.lstrip("+-") in {"nan", "inf", "infinity", "#inf", "1.#inf", "1.#qnan"}:
        return "null"
    if _NUMBER.fullmatch(piece):
        return _strict_number(piece)
    return piece


def _strict_number(piece: str) -> str:
    sign = "-" if piece.startswith("-") else ""
    body = piece.lstrip("+-")
    mantissa, e, exponent = re.split("([eE])", body) if re.search("[eE]", body) else (body, "", "")
    whole, point, fraction = mantissa.partition(".")
    whole = whole.lstrip("0") or "0"
    return f"{sign}{whole}{point if fraction else ''}{fraction}{e}{exponent}"


def _needs_work(quoted: str) -> bool:
    """Whether a text in double quotes is not as JSON wants it: Python's escapes, bare control characters."""
    return any(ord(c) < 32 for c in quoted) or any(
        m[1] or m[3] or (m[4] and m[4] not in '"\\/bfnrt') for m in _ESCAPE.finditer(quoted)
    )


def _character(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code is None:
        return _ESCAPED.get(match[4], match[4])
    number = int(code, 16)
    return chr(number) if number <= 0x10FFFF and not 0xD800 <= number < 0xE000 else "\ufffd"
