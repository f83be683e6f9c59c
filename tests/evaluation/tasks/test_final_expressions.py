"""Final expressions: what lm-evaluation-harness says of the same answers, and solutions without one."""

import pytest

from safety_lightning.evaluation.tasks.final_expressions import find_boxed, find_expression, matches_expression

# answer, what the solution boxes, and whether lm-evaluation-harness 0.4.13 (hendrycks_math, process_results) says that
# they match; on 20,000 drawn pairs of such expressions both said the same
RECORDED = [
    ("$\\frac12$", "\\frac{1}{2}", True),
    ("\\dfrac{1}{2}", "\\frac12", True),
    ("0.5", "\\frac{1}{2}", True),
    ("$.5$", "\\frac{1}{2}", True),
    ("1/2", "\\frac{1}{2}", True),
    ("$-3/4$", "-\\frac{3}{4}", False),
    ("-3/4", "\\frac{-3}{4}", True),
    ("a/b", "a/b", True),
    ("a/b", "a /b", False),
    ("a/b", "\\frac{a}{b}", False),
    ("$x = 3$", "3", True),
    ("abc=3", "3", False),
    ("x=y=2", "2", False),
    ("\\sqrt3", "\\sqrt{3}", True),
    ("\\sqrt", "\\sqrt", True),
    ("\\sqrt", "\\sqrt ", False),
    ("5\\text{ cm}", "5", True),
    ("5\\text{ cm}\\text{ or so}", "5", False),
    ("5\\text{ cm}\\text{ or so}", "5\\text{ cm}\\text{ or so}", True),
    ("50\\%", "50", True),
    ("\\$12", "12", True),
    ("90^\\circ", "90", True),
    ("90^{\\circ}", "90", True),
    ("\\left(1,2\\right)", "(1,2)", True),
    ("(1, 2)", "(1,2)", True),
    ("1,000", "1000", False),
    ("", "", True),
    ("$$", "", True),
    ("It costs $5 or $6.", "5 or ", True),
    ("It costs $5", "It costs $5", True),
    ("\\tfrac{a}{b}", "\\frac{a}{b}", True),
    ("\\frac1{72}", "\\frac{1}{72}", True),
    ("\\frac{72}1", "\\frac{72}{1}", False),
    ("\\frac1", "\\frac1", True),
    ("\\frac", "\\frac", True),
    ("{.7}", "{0.7}", True),
    ("x\n+ 1", "x+1", True),
    ("1\\!000", "1000", True),
    ("\\text{even}", "even", False),
    ("2", "2 ", True),
]


@pytest.mark.parametrize(("answer", "boxed", "is_match"), RECORDED)
def test_as_the_harness_says(answer, boxed, is_match):
    assert matches_expression(answer, f"so \\boxed{{{boxed}}} it is") == is_match


@pytest.mark.parametrize(
    ("solution", "boxed"),
    [
        (r"\boxed{1} then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"$\boxed 7$ it is", "7"),
        (r"\boxed{a{b}c}}", "a{b}c"),
    ],
)
def test_the_last_box_counts(solution, boxed):
    assert find_boxed(solution) == boxed


@pytest.mark.parametrize("solution", ["", "12", r"\boxed{12", r"\boxed"])
def test_a_solution_without_a_box_is_an_error(solution):
    with pytest.raises(ValueError, match="a solution must hold"):
        find_boxed(solution)


@pytest.mark.parametrize(
    ("answer", "found"), [("a $b$ c $d$", "b$ c $d"), ("a $b", "a $b"), ("a", "a"), ("$$", ""), ("", "")]
)
def test_between_the_dollars(answer, found):
    assert find_expression(answer) == found
