"""The verdicts on a cell, and the arithmetic of tolerances."""

import pytest

from reproduce.judge.verdict import Verdict, exit_status, judge
from reproduce.paper import METRICS, Printed, Tolerance, load_tolerances

TWO_PERCENT = Tolerance(relative=0.02, half_unit=True, reason='')


@pytest.mark.parametrize(
    ('text', 'half_unit'), [('4.5', 0.05), ('84', 0.5), ('41.', 0.5), ('85.00', 0.005)]
)
def test_half_a_unit_of_the_last_printed_digit(text, half_unit):
    assert Printed(text).half_unit == pytest.approx(half_unit)


@pytest.mark.parametrize(
    ('metric', 'measured', 'target', 'registered', 'verdict'),
    [
        ('flops_g', 4.63, '4.5', None, Verdict.MATCH),
        ('flops_g', 4.35, '4.5', None, Verdict.WORSE),
        ('params_m', 4.65, '4.5', Verdict.KNOWN, Verdict.KNOWN),
        ('params_m', 4.65, '4.5', Verdict.UNRESOLVED, Verdict.UNRESOLVED),
        ('params_m', 4.5, '4.5', Verdict.KNOWN, Verdict.ERROR),
        ('params_m', 4.5, '4.5', Verdict.UNRESOLVED, Verdict.ERROR),
        ('top1', 4.65, '4.5', None, Verdict.BETTER),
        ('top1', 4.35, '4.5', None, Verdict.WORSE),
        ('top1', 80.0, None, None, Verdict.UNPRINTED),
        ('top1', float('nan'), '4.5', None, Verdict.ERROR),
    ],
)
def test_judge(metric, measured, target, registered, verdict):
    printed = Printed(target) if target else None
    assert judge(METRICS[metric], measured, printed, TWO_PERCENT, registered) is verdict


def test_the_exit_status_is_that_of_the_gravest_verdict():
    fine = [v for v in Verdict if v not in (Verdict.WORSE, Verdict.ERROR)]
    assert (exit_status(()), exit_status(fine), exit_status(fine, strict=True)) == (0, 0, 1)
    assert (exit_status([*fine, Verdict.WORSE]), exit_status(Verdict)) == (1, 2)


def test_sampling_and_seeds_add_as_independent_errors():
    """In addition to half a printed unit; a publisher's value is of the same images."""
    top1 = load_tolerances()['top1']
    # Where a tenth of 50,000 images is correct in one of two networks only.
    sampling = 1.96 * 100 * (0.1 / 50_000) ** 0.5
    expected = 0.05 + (sampling**2 + 0.28**2) ** 0.5
    assert top1.width(Printed('79.8')) == pytest.approx(expected, abs=1e-3)
    assert top1.width_of_seeds(Printed('79.8')) == pytest.approx(0.33)


def test_every_accuracy_states_its_sources():
    tolerances = load_tolerances()
    for name, metric in METRICS.items():
        tolerance = tolerances[name]
        assert (tolerance.resolvable is None) == metric.is_complexity
        if not metric.is_complexity:
            assert tolerance.sampling.source and tolerance.seeds.source
            assert tolerance.sampling.images in (50_000, 5_000, 2_000)
