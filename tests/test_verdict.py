"""The states of a cell, and the arithmetic of tolerances."""

import pytest

from reproduce.judge.verdict import Verdict, judge
from reproduce.paper import METRICS, Printed, Tolerance, load_tolerances

TWO_PERCENT = Tolerance(relative=0.02, half_unit=True, reason='')


@pytest.mark.parametrize(
    ('text', 'half_unit'), [('4.5', 0.05), ('84', 0.5), ('41.', 0.5), ('85.00', 0.005)]
)
def test_half_a_unit_of_the_last_printed_digit(text, half_unit):
    assert Printed(text).half_unit == pytest.approx(half_unit)


def test_complexity_tolerance_is_half_a_unit_plus_two_percent():
    tolerances = load_tolerances()
    assert tolerances['flops_g'].width(Printed('4.5')) == pytest.approx(0.05 + 0.09)
    assert tolerances['params_m'].width(Printed('23')) == pytest.approx(0.5 + 0.46)


@pytest.mark.parametrize(
    ('metric', 'measured', 'target', 'known', 'verdict'),
    [
        ('flops_g', 4.63, '4.5', False, Verdict.MATCH),
        ('flops_g', 4.65, '4.5', False, Verdict.WORSE),
        ('flops_g', 4.35, '4.5', False, Verdict.WORSE),
        ('params_m', 4.65, '4.5', True, Verdict.KNOWN),
        ('params_m', 4.5, '4.5', True, Verdict.ERROR),
        ('top1', 4.65, '4.5', False, Verdict.BETTER),
        ('top1', 4.35, '4.5', False, Verdict.WORSE),
        ('top1', 4.35, '4.5', True, Verdict.KNOWN),
        ('top1', 80.0, None, False, Verdict.UNPRINTED),
        ('top1', float('nan'), '4.5', False, Verdict.ERROR),
        ('top1', float('inf'), None, False, Verdict.ERROR),
    ],
)
def test_judge(metric, measured, target, known, verdict):
    printed = Printed(target) if target else None
    assert judge(METRICS[metric], measured, printed, TWO_PERCENT, known) is verdict
