"""The laws refuse what they should: each planted fault by its law, in words that say where; nothing healthy."""

import pytest
from planted import FAULTS, HEALTHY

from lab.conformance import check
from lab.laws import LAWS

SLOW = ("Step",)  # position by position


@pytest.mark.parametrize(
    "backbone", [pytest.param(cls, marks=[pytest.mark.slow] * (cls.__name__ in SLOW), id=cls.__name__) for cls in HEALTHY]
)
def test_healthy_backbones_keep_every_law(backbone):
    report = check(backbone)
    assert report.passed, str(report)
    assert [result.law for result in report.results] == [law for law, _, _ in LAWS]


@pytest.mark.parametrize(("backbone", "law", "words"), FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_planted_fault_is_refused_by_its_law(backbone, law, words):
    report = check(backbone, laws=[law])
    assert report.failed == [law], str(report)
    (result,) = report.results
    assert result.message.startswith(f"law {law}, ")
    assert any(option in result.message for option in words.split("|")), result.message
    assert "\n" not in result.message
    assert result.message in str(report)
