"""The first screen of the page: what was found, in three sentences, three counts and some links."""

from collections.abc import Sequence
from dataclasses import dataclass

from reproduce.ablation.judging import DesignVerdict
from reproduce.ablation.outcomes import Outcomes
from reproduce.audit.findings import Extent, Finding
from reproduce.judge.assembly import count, count_published
from reproduce.judge.cells import Cell
from reproduce.judge.verdict import Agreement


@dataclass(frozen=True)
class Count:
    """A number of cells among others, and where on the page they are."""

    n: int
    total: int
    label: str
    note: str
    link: str


@dataclass(frozen=True)
class Message:
    """What the page says first.

    Attributes:
        sentences: at most three.
        counts: how many cells are measured, and how many are published only.
        leads: the leading findings, each with the link to its place on the page.
    """

    sentences: tuple[str, ...]
    counts: tuple[Count, ...]
    leads: tuple[tuple[str, str], ...]


def message(
    cells: Sequence[Cell],
    findings: Sequence[Finding] = (),
    studies: Sequence[Outcomes] = (),
) -> Message:
    """Return what cells, audit and studies say, in order of importance."""
    costs = [cell for cell in cells if cell.column.metric.is_complexity]
    accuracies = [cell for cell in cells if not cell.column.metric.is_complexity]
    costs_measured = sum(cell.measured is not None for cell in costs)
    measured = sum(cell.measured is not None for cell in accuracies)
    only_published = [cell for cell in accuracies if cell.published and cell.measured is None]
    agreeing = sum(cell.published == Agreement.AGREES for cell in only_published)
    sentences = []
    if costs:
        sentences.append(
            f'{costs_measured} of the {len(costs)} parameter counts and FLOPs are measured: '
            f'{_verdicts(costs)}.'
        )
    if accuracies:
        sentences.append(_of_accuracies(accuracies, measured, len(only_published), agreeing))
    if findings:
        sentences.append(
            f'The audit has {len(findings)} findings about the paper; the first is: '
            f'{findings[0].sentence}'
        )
    counts = (
        Count(
            costs_measured,
            len(costs),
            'parameter counts and FLOPs measured',
            _verdicts(costs),
            '#deviations' if any(cell.deviates for cell in cells) else '#tables',
        ),
        Count(
            measured,
            len(accuracies),
            'accuracies measured',
            _verdicts([cell for cell in accuracies if cell.measured is not None])
            or 'the tables show printed ones, set apart from the measured',
            '#evaluations' if measured else '#missing',
        ),
        Count(
            len(only_published),
            len(accuracies),
            'accuracies published with public weights, but not measured here',
            f'{agreeing} agree with the paper' if only_published else '',
            '#published' if only_published else '#missing',
        ),
    )
    return Message(
        tuple(sentences),
        counts,
        tuple(_leads(cells, findings, studies)),
    )


def _verdicts(cells: Sequence[Cell]) -> str:
    return ', '.join(
        f'{n} {verdict.about.phrase}' for verdict, n in count(cells).items() if verdict.about.phrase
    )


def _of_accuracies(cells: Sequence[Cell], measured: int, published: int, agreeing: int) -> str:
    if measured:
        own = [cell for cell in cells if cell.measured is not None]
        start = f'{measured} of the {len(cells)} accuracies are measured: {_verdicts(own)}'
    else:
        start = f'None of the {len(cells)} accuracies is measured'
    if not published:
        return f'{start}.'
    others = 'others' if measured else 'of them'
    return (
        f'{start}; for {published} {others} the publisher of the weights states a value, and '
        f'{agreeing} of these agree with the paper.'
    )


def _leads(
    cells: Sequence[Cell],
    findings: Sequence[Finding],
    studies: Sequence[Outcomes],
) -> list[tuple[str, str]]:
    leads = [
        (finding.sentence.rstrip('.'), f'#finding-{number}')
        for number, finding in enumerate(findings, 1)
        if finding.extent is Extent.RESULT
    ]
    unlike = count_published(cells)
    if n := unlike[Agreement.HIGHER] + unlike[Agreement.LOWER]:
        leads.append(
            (f'{n} accuracies differ from what the publishers of the weights state', '#published')
        )
    for study in studies:
        claims = [j for j in study.judgements if not j.control]
        of = {v: [j for j in claims if j.verdict is v] for v in DesignVerdict}
        leads.append(
            (
                f'Of {len(claims)} claims about the design, trained at the size of the study '
                f'“{study.study.name}”, {len(of[DesignVerdict.SUPPORTED])} are supported, '
                f'{len(of[DesignVerdict.CONTRADICTED])} contradicted and '
                f'{len(of[DesignVerdict.UNRESOLVED])} unresolved',
                '#ablations',
            )
        )
    if findings:
        leads.append((f'all {len(findings)} findings about the paper', '#audit'))
    return leads
