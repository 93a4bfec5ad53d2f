"""What the tables print twice, or what follows from one another, and does not agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations

from reproduce.audit.findings import Finding
from reproduce.audit.measured import MeasuredTables
from reproduce.audit.rows import Tables, accuracies, same_model
from reproduce.paper import DETECTION_SIZE, TABLES, Row


@dataclass(frozen=True)
class _Framework:
    """A framework as it is called here, its name in the tables, and the tables that print it."""

    name: str
    key: str
    tables: tuple[int, ...]

    def column(self, metric: str) -> str:
        """Return the name of the column of `metric`."""
        return TABLES[self.tables[0]].column(self.key, metric).name


_CLASSIFIER = _Framework('classification', 'classifier', (4, 1))
_MASK_RCNN = _Framework('Mask R-CNN', 'mask_rcnn', (5,))
_CASCADE = _Framework('Cascade Mask R-CNN', 'cascade_mask_rcnn', (6,))
_SEM_FPN = _Framework('Semantic FPN', 'sem_fpn', (7,))
_UPERNET = _Framework('UPerNet', 'upernet', (7,))
_FRAMEWORKS = (_CLASSIFIER, _MASK_RCNN, _CASCADE, _SEM_FPN, _UPERNET)

# What the second framework adds to the first is the same for every backbone: both take it through
# an FPN to 256 channels, and their heads see nothing else of it.
_SAME_FOR_EVERY_BACKBONE = (
    (_MASK_RCNN, _CASCADE, 'params_m'),
    (_MASK_RCNN, _CASCADE, 'flops_g'),
    (_SEM_FPN, _MASK_RCNN, 'params_m'),
)
# Backbones of the same widths (their papers' model tables; MAFormer's are compared in Table 1): in
# whatever framework, the larger one adds the same parameters.
_SAME_WIDTHS = (
    ('Swin-T', 'Swin-S'),
    ('CSWin-T', 'CSWin-S'),
    ('Res50', 'Res101'),
    ('TwinsP-S', 'TwinsP-B'),
)


@dataclass(frozen=True)
class _Difference:
    """A difference of two printed numbers, known within `slack` because both are rounded."""

    label: str
    shown: str
    value: Decimal
    slack: Decimal

    def allows(self, value: Decimal) -> bool:
        return abs(self.value - value) <= self.slack


def contradictions(tables: Tables, measured: MeasuredTables) -> list[Finding]:
    """Return all that the tables contradict each other in, in the order of the rules below."""
    return [
        *same_quantity(tables),
        *framework_constants(tables, measured),
        *backbone_differences(tables),
        *flops_below_growth(tables, measured),
        *masks_above_boxes(tables),
    ]


def same_quantity(tables: Tables) -> list[Finding]:
    """Return numbers of one model that Tables 1-4 print differently.

    Table 4 prints a model with and without token labeling; the other tables' Top-1 is held against
    both. Of a model's ablations in Tables 2 and 3 the best row is the model itself.
    """
    findings = []
    for number in (1, 2, 3):
        for row in _best_of_each_model(tables.get(number, ())):
            twins = [twin for twin in tables.get(4, ()) if same_model(twin, row)]
            for metric, printed in row.cells.items():
                others = {t.cells[metric].text for t in twins if t.cells.get(metric)}
                if printed and others and Decimal(printed.text) not in map(Decimal, others):
                    findings.append(
                        Finding(
                            f'Tables {number} and 4, {row.model}',
                            f'{metric} {printed.text} and {", ".join(sorted(others))}',
                            'The same number of the same model is printed differently.',
                            ((number, row.model, metric), (4, row.model, metric)),
                        )
                    )
    return findings


def framework_constants(tables: Tables, measured: MeasuredTables) -> list[Finding]:
    """Return rows in which a framework adds another amount than it adds to the other backbones."""
    findings = []
    for first, second, metric in _SAME_FOR_EVERY_BACKBONE:
        models = [row.model for row in tables.get(second.tables[0], ())]
        differences = [
            d
            for model in models
            if (d := _between_frameworks(tables, model, first, second, metric))
        ]
        what = f'{metric}, {second.name} less {first.name}'
        for odd, usual in _odd_ones(differences):
            findings.append(
                Finding(
                    f'{_names(first, second)}, {odd.label}',
                    f'{what}: {odd.shown}',
                    f'It is the same for every backbone, and {usual} in the other rows, '
                    f'within rounding.{_mixed(measured, odd.label, metric, first, second)}',
                    tuple(_place(f, odd.label, metric) for f in (first, second)),
                )
            )
    return findings


def backbone_differences(tables: Tables) -> list[Finding]:
    """Return frameworks in which two backbones of the same widths differ as they do in no other."""
    findings = []
    for small, large in (*_SAME_WIDTHS, *_same_embed_dims(tables.get(1, ()))):
        differences = {
            framework: d
            for framework in _FRAMEWORKS
            if (d := _between_sizes(tables, framework, small, large))
        }
        frameworks = {d.label: framework for framework, d in differences.items()}
        for odd, usual in _odd_ones(list(differences.values())):
            framework = frameworks[odd.label]
            findings.append(
                Finding(
                    f'{odd.label}, {small} and {large}',
                    f'params_m, {large} less {small}: {odd.shown}',
                    f'They share their widths, so it is the same in every framework; elsewhere it '
                    f'is {usual}, within rounding.',
                    tuple(_place(framework, model, 'params_m') for model in (small, large)),
                )
            )
    return findings


def flops_below_growth(tables: Tables, measured: MeasuredTables) -> list[Finding]:
    """Return classifiers whose FLOPs a detector's contradict.

    At more pixels a backbone's FLOPs grow at least in proportion: layers do, attention does more
    than that. So two backbones of the same widths differ by at least so much. It takes rows whose
    FLOPs count attention in both tables.
    """
    ratio = Decimal(DETECTION_SIZE[0] * DETECTION_SIZE[1]) / Decimal(224 * 224)
    findings = []
    for small, large in _SAME_WIDTHS:
        for detector in (_MASK_RCNN, _CASCADE):
            conventions = {
                measured.convention(table, model, 'flops_g')
                for table in (4, *detector.tables)
                for model in (small, large)
            }
            at_224 = _between_sizes(tables, _CLASSIFIER, small, large, 'flops_g')
            larger = _between_sizes(tables, detector, small, large, 'flops_g')
            if conventions != {'total'} or not at_224 or not larger:
                continue
            most = (larger.value + larger.slack) / ratio
            if at_224.value - at_224.slack > most:
                findings.append(
                    Finding(
                        f'Tables 4 and {detector.tables[0]}, {small} and {large}',
                        f'flops_g, {large} less {small}: {at_224.shown} at 224x224',
                        f'At 800x1280 they differ by {larger.shown}, which is at most '
                        f'{most:.1f} G for as many pixels as 224x224 has.',
                        tuple(
                            _place(f, model, 'flops_g')
                            for f in (_CLASSIFIER, detector)
                            for model in (large, small)
                        ),
                    )
                )
    return findings


def masks_above_boxes(tables: Tables) -> list[Finding]:
    """Return rows whose masks score as high as their boxes, or higher, which no other row does."""
    findings = []
    for number in (5, 6):
        differences = {
            (row.model, box, mask): Decimal(row.cells[box].text) - Decimal(row.cells[mask].text)
            for row in tables.get(number, ())
            for box, mask in (('box_ap', 'mask_ap'), ('box_ap50', 'mask_ap50'))
            if row.cells[box] and row.cells[mask]
        }
        for (model, box, mask), difference in differences.items():
            others = [d for (m, b, _), d in differences.items() if b == box and m != model]
            if difference > 0 or not others:
                continue
            findings.append(
                Finding(
                    f'Table {number}, {model}',
                    f'{mask} is {-difference} above {box}' if difference else f'{mask} is {box}',
                    f'In the {len(others)} other rows it is {min(others)} to {max(others)} below.',
                    ((number, model, mask), (number, model, box)),
                )
            )
    return findings


def _best_of_each_model(rows: Sequence[Row]) -> list[Row]:
    models = dict.fromkeys(row.model for row in rows)
    return [
        max((r for r in rows if r.model == model), key=lambda row: accuracies(row).get('top1', 0))
        for model in models
    ]


def _same_embed_dims(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return [
        (a.model, b.model)
        for a, b in combinations(rows, 2)
        if a.description['embed_dims'] == b.description['embed_dims']
    ]


def _cell(
    tables: Tables, framework: _Framework, model: str, metric: str
) -> tuple[Decimal, Decimal] | None:
    """Return the printed number and half a unit of its last digit."""
    for number in framework.tables:
        for row in tables.get(number, ()):
            printed = row.cells.get(framework.column(metric))
            if row.model == model and printed:
                return Decimal(printed.text), Decimal(str(printed.half_unit))
    return None


def _between_frameworks(
    tables: Tables, model: str, first: _Framework, second: _Framework, metric: str
) -> _Difference | None:
    a, b = (_cell(tables, framework, model, metric) for framework in (first, second))
    return _difference(model, b, a) if a and b else None


def _between_sizes(
    tables: Tables, framework: _Framework, small: str, large: str, metric: str = 'params_m'
) -> _Difference | None:
    a, b = (_cell(tables, framework, model, metric) for model in (small, large))
    return _difference(_names(framework), b, a) if a and b else None


def _difference(
    label: str, minuend: tuple[Decimal, Decimal], subtrahend: tuple[Decimal, Decimal]
) -> _Difference:
    value = minuend[0] - subtrahend[0]
    shown = f'{minuend[0]} - {subtrahend[0]} = {value}'
    return _Difference(label, shown, value, minuend[1] + subtrahend[1])


def _mixed(
    measured: MeasuredTables, model: str, metric: str, first: _Framework, second: _Framework
) -> str:
    """Why FLOPs may differ: those of one table count attention, those of the other do not."""
    counted = [
        measured.convention(framework.tables[0], model, framework.column(metric))
        for framework in (first, second)
    ]
    if sorted(map(str, counted)) != ['layer', 'total']:
        return ''
    which = second if counted[1] == 'total' else first
    return f' By what was measured, only Table {which.tables[0]} counts attention in this row.'


def _odd_ones(differences: Sequence[_Difference]) -> list[tuple[_Difference, str]]:
    """Return those that cannot equal the value which most can equal, each with what most print."""
    if not differences:
        return []
    ends = [d.value + end for d in differences for end in (-d.slack, d.slack)]
    common = max(ends, key=lambda value: sum(d.allows(value) for d in differences))
    usual = [d.value for d in differences if d.allows(common)]
    text = f'{min(usual)}' if min(usual) == max(usual) else f'{min(usual)} to {max(usual)}'
    return [(d, text) for d in differences if not d.allows(common)]


def _place(framework: _Framework, model: str, metric: str) -> tuple[int, str, str]:
    return framework.tables[0], model, framework.column(metric)


def _names(*frameworks: _Framework) -> str:
    numbers = list(dict.fromkeys(framework.tables[0] for framework in frameworks))
    tables = f'Table{"s" * (len(numbers) > 1)} {" and ".join(map(str, sorted(numbers)))}'
    kinds = ' '.join(f.name for f in frameworks if len(TABLES[f.tables[0]].frameworks) > 1)
    return f'{tables} {kinds}'.strip()
