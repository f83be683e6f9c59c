r"""Compares final expressions in LaTeX exactly as lm-evaluation-harness does (hendrycks_math, version 1).

What counts is the text after a few rewritings; two expressions of equal value that are written otherwise differ.
"""

from __future__ import annotations

from safety_lightning.errors import UserError

_BOXED = "\\boxed"
_REWRITTEN = (  # in this order
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)
_REWRITTEN_LATER = (("\\%", ""), (" .", " 0."), ("{.", "{0."))
_UNIT = "\\text{ "
_LONGEST_NAME = 2  # characters before an equals sign that are left out


class _UnreadableError(ValueError):
    """An expression that the rewriting does not get through; it is then compared as it stands."""


def find_boxed(solution: str) -> str:
    r"""Returns what a solution boxes last.

    Raises:
        UserError: If there is no whole ``\boxed{...}``.

    Example:
        >>> find_boxed(r"so $x = \boxed{\frac{1}{2}}$.")
        '\\frac{1}{2}'
    """
    if f"{_BOXED} " in solution:
        return solution.split(f"{_BOXED} ")[-1].split("$")[0]
    start = solution.rfind(f"{_BOXED}{{")
    depth = 0
    for place in range(max(start, 0), len(solution) if start >= 0 else 0):
        depth += {"{": 1, "}": -1}.get(solution[place], 0)
        if solution[place] == "}" and depth == 0:
            return solution[start + len(_BOXED) + 1 : place]
    raise UserError(f"a solution must hold \\boxed{{...}}, got {solution[-80:]!r}")


def find_expression(answer: str) -> str:
    """Returns what stands between the first and the last dollar sign of an answer; all of it with fewer than two.

    Example:
        >>> find_expression("It is $x = 3$.")
        'x = 3'
    """
    first, last = answer.find("$"), answer.rfind("$")
    return answer if first == last else answer[first + 1 : last]


def matches_expression(answer: str, solution: str) -> bool:
    r"""Says whether an answer's expression is the one that the solution boxes.

    Example:
        >>> matches_expression(r"$\dfrac12$", r"\boxed{\frac{1}{2}}")
        True
    """
    found, wanted = find_expression(answer), find_boxed(solution)
    try:
        return normalise(found) == normalise(wanted)
    except _UnreadableError:
        return found == wanted


def normalise(text: str) -> str:
    r"""Rewrites an expression so that common ways to write it become one.

    Example:
        >>> normalise(r"x = \sqrt3 \text{ cm}")
        '\\sqrt{3}'
    """
    text = _cut_unit(_replace(text, _REWRITTEN))
    text = _replace(text, _REWRITTEN_LATER)
    if not text:
        return text
    text = _cut_name(f"0{text}" if text[0] == "." else text)
    text = _brace_fractions(_brace_roots(text).replace(" ", ""))
    return _write_fraction("\\frac{1}{2}" if text == "0.5" else text)


def _replace(text: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


def _cut_unit(text: str) -> str:
    if text.count(_UNIT) > 1:
        raise _UnreadableError
    return text.partition(_UNIT)[0]


def _cut_name(text: str) -> str:
    name, _, value = text.partition("=")
    return value if text.count("=") == 1 and len(name) <= _LONGEST_NAME else text


def _brace_roots(text: str) -> str:
    first, *others = text.split("\\sqrt")
    if "" in others:
        raise _UnreadableError
    return first + "".join("\\sqrt" + (one if one[0] == "{" else f"{{{one[0]}}}{one[1:]}") for one in others)


def _brace_fractions(text: str) -> str:
    first, *others = text.split("\\frac")
    braced = [first]
    for one in others:
        if not one:
            raise _UnreadableError
        if one[0] == "{":
            braced.append(one)
        elif len(one) == 1:
            return text
        else:
            denominator = one[1] if one[1] == "{" else f"{{{one[1]}}}"
            braced.append(f"{{{one[0]}}}{denominator}{one[2:]}")
    return "\\frac".join(braced)


def _write_fraction(text: str) -> str:
    """Writes a/b of two whole numbers as a fraction."""
    if text.count("/") != 1:
        return text
    try:
        above, below = (int(part) for part in text.split("/"))
    except ValueError:
        raise _UnreadableError from None
    return f"\\frac{{{above}}}{{{below}}}" if text == f"{above}/{below}" else text
