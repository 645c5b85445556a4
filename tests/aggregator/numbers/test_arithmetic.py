"""Floats are added in one way on every Python."""

from __future__ import annotations

import ast

from aggregator.numbers.arithmetic import plain_sum
from tests.support.project import ROOT


def test_a_plain_sum_is_added_from_left_to_right_without_compensation() -> None:
    """sum() of this list is 1.0 from Python 3.12 on."""
    assert plain_sum([0.1] * 10) == 0.9999999999999999
    assert plain_sum([1e16, 1.0, -1e16]) == 0.0
    assert repr(plain_sum([])) == "0.0"
    assert repr(plain_sum(iter([-0.0]))) == "0.0"


def test_the_core_adds_numbers_by_no_other_function() -> None:
    """sum(), statistics and numpy add in ways that differ between versions; math.sumprod is new in Python 3.12."""
    found = []
    paths = [path for room in ("core", "numbers") for path in (ROOT / "aggregator" / room).glob("*.py")]
    for path in paths:
        names = {
            node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else node.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Name | ast.Attribute | ast.alias)
        }
        found += [(path.name, name) for name in names & {"sum", "sumprod", "statistics", "numpy"}]
    assert len(paths) > 20
    assert found == [("arithmetic.py", "sum")]
