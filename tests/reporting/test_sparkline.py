"""Curves in a line of text."""

from jaxcifar.reporting.sparkline import sparkline


def test_sparklines_have_the_heights_of_the_values():
    assert sparkline((0.0, 1.0, 2.0, 3.5, 7.0), 10) == "▁▂▃▅█"  # 3.5 rounds to even
    assert sparkline((5.0, 5.0), 10) == "▁▁"
    assert sparkline((0.0, 0.0, 7.0, 7.0), 2) == "▁█"
    assert sparkline((1.0, float("nan"), float("inf"), 2.0), 9) == "▁█"
    assert sparkline((), 5) == ""
    assert len(sparkline(tuple(map(float, range(1000))), 24)) == 24
