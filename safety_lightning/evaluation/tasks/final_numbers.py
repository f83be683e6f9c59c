"""Finds the final number in an answer to a word problem, exactly as lm-evaluation-harness does (gsm8k, version 3)."""

from __future__ import annotations

import re
from typing import Literal

Extraction = Literal["strict", "flexible"]

NO_NUMBER = "[invalid]"
_STRICT = re.compile(r"#### (\-?[0-9\.\,]+)")  # the first one counts
_FLEXIBLE = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")  # the last one counts
_IGNORED = [re.compile(pattern) for pattern in (",", r"\$", r"(?s).*#### ", r"\.$")]


def extract_number(answer: str, extraction: Extraction) -> str:
    """Returns what an answer gives as its final number, as text, or ``[invalid]``.

    Args:
        answer: What the model said.
        extraction: ``strict`` is the first number behind ``####``, ``flexible`` the last number of all.

    Example:
        >>> extract_number("He pays $1,234.50 and gets 7.", "flexible")
        '7.'
        >>> extract_number("It is 7. #### 12", "strict")
        '12'
    """
    found = (_STRICT if extraction == "strict" else _FLEXIBLE).finditer(answer)
    groups = [next((group for group in match.groups() if group), NO_NUMBER) for match in found]
    if not groups:
        return NO_NUMBER
    return groups[0 if extraction == "strict" else -1].strip()


def matches_solution(answer: str, solution: str, extraction: Extraction) -> bool:
    """Says whether an answer's final number is that of the solution.

    Commas, dollar signs, a final full stop and case do not count; numbers are compared as text.

    Args:
        answer: What the model said.
        solution: The solution, which ends in ``#### N``.
        extraction: How the number is found in the answer.

    Example:
        >>> matches_solution("So $1,000.", "500 + 500 = 1000\\n#### 1,000", "flexible")
        True
    """
    return _strip_ignored(extract_number(answer, extraction)) == _strip_ignored(solution)


def _strip_ignored(text: str) -> str:
    for pattern in _IGNORED:
        text = pattern.sub("", text)
    return text.lower()
