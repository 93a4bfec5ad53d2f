"""Findings that follow from printed numbers: of the paper's text and tables, and of its sources."""

from decimal import Decimal

from reproduce.audit.audit_data import AuditData
from reproduce.audit.claims import ClaimVerdict
from reproduce.audit.findings import Certainty, Extent, Finding, listed
from reproduce.audit.rows import best_rivals, number
from reproduce.audit.sources import SourceVerdict, without_accuracy
from reproduce.paper import TABLES, Row

_MIOUS = ('sem_fpn_miou', 'upernet_miou', 'upernet_ms_miou')
_WRONG = (ClaimVerdict.FAILS, ClaimVerdict.PARTLY)
_OF_PARAMETERS = ('similar', 'below')


def omitted_rival(data: AuditData) -> Finding:
    """Table 7 leaves out the rival that is better than MAFormer-S."""
    small, base = ([data.printed(7, f'MAFormer-{s}', c) for c in _MIOUS] for s in 'SB')
    tiny, other = ([data.printed(7, f'CSWin-{s}', c, 'cswin') for c in _MIOUS] for s in 'TS')
    leads = [ours - theirs for ours, theirs in zip(base, other, strict=True)]
    return Finding(
        'Table 7 leaves out CSWin',
        f'Table 7 does not print CSWin-T, whose {listed(tiny)} mIoU (Semantic FPN, UPerNet, '
        f"UPerNet at several scales) are above MAFormer-S's {listed(small)}.",
        (
            "CSWin's paper and the README of its released code print them. Tables 2, 4, 5 and 6 "
            'compare MAFormer with CSWin.',
            f'CSWin-S, which is left out too, has {listed(other)}: MAFormer-B leads it by '
            f'{listed(leads)}.',
        ),
        Certainty.CERTAIN,
        Extent.RESULT,
    )


def token_labeling(data: AuditData) -> Finding:
    """Leads in Top-1 compare models trained with token labeling with models trained without."""

    def top1(model: str) -> Decimal:
        return data.printed(4, model, 'top1')

    large, labeled = top1('MAFormer-L'), top1('MAFormer-S, token_labeling=true')
    plain, cswin, dsnet = map(top1, ('MAFormer-S, token_labeling=false', 'CSWin-T', 'DS-Net-S'))
    alike = (
        labeled - top1('LV-ViT-S'),
        top1('MAFormer-B') - top1('LV-ViT-M'),
        large - top1('LV-ViT-L'),
    )
    return Finding(
        'Leads of token labeling',
        f'The leads of {large - top1("CSWin-B")} over CSWin-B (abstract) and of {labeled - cswin} '
        'for GLD (section 4.1) compare a model trained with token labeling with one trained '
        'without.',
        (
            f'Table 4 prints MAFormer-S both ways, {labeled} and {plain}. Without token labeling '
            f'its lead over CSWin-T, which is the lead of GLD, is {plain - cswin}, and the one '
            f'over DS-Net-S {plain - dsnet} instead of {labeled - dsnet}.',
            'MAFormer-B and MAFormer-L are printed with token labeling only. Among models with '
            f'token labeling, MAFormer-S, -B and -L lead LV-ViT-S, -M and -L by {listed(alike)}.',
        ),
        Certainty.CERTAIN,
        Extent.RESULT,
    )


def parameters(data: AuditData) -> Finding:
    """MAFormer leads CSWin with more parameters, where the text says with similar ones."""
    ours = [data.printed(5, f'MAFormer-{size}', 'params_m') for size in 'SBL']
    theirs = [data.printed(5, f'CSWin-{size}', 'params_m') for size in 'TSB']
    more = [_percent(a, b) for a, b in zip(ours, theirs, strict=True)]
    return Finding(
        'Parameters are not similar',
        'MAFormer leads CSWin "with similar-sized parameters" (abstract), and CSWin-S and Swin-S '
        f'"with far less parameters" (section 4.3), but MAFormer-B has {ours[1]} M, CSWin-S '
        f'{theirs[1]} M and Swin-S {data.printed(5, "Swin-S", "params_m")} M.',
        (
            f'With Mask R-CNN MAFormer-B has {more[1]} % and MAFormer-L {more[2]} % more '
            f'parameters than its CSWin. MAFormer-S has {-more[0]} % fewer, and the smallest lead.',
        ),
        Certainty.CERTAIN,
        Extent.RESULT,
    )


def cait_row(data: AuditData) -> Finding:
    """The row of CaiT-M36 is made of two models, and the right one is above MAFormer-L."""
    printed, released = (data.printed(4, 'CaiT-M36', 'top1', source) for source in ('', 'cait'))
    other, whole = (data.row(4, model, 'uniformer') for model in ('CaiT-S48', 'CaiT-M36'))
    return Finding(
        "CaiT-M36's row is of two models",
        f"CaiT-M36's row has {printed} % at 384 x 384; its released weights, trained with "
        f'distillation, have {released} % at that size, above the '
        f'{data.printed(4, "MAFormer-L", "top1")} % of MAFormer-L at 224 x 224.',
        (
            f"In UniFormer's table {number(other, 'top1')} % at {_square(other)} is CaiT-S48, the "
            f'row above CaiT-M36, and CaiT-M36 has {number(whole, "top1")} % and the printed '
            f'{number(whole, "flops_g")} G at {_square(whole)}.',
        ),
        Certainty.CERTAIN,
        Extent.COMPARISON,
    )


def cswin_flops(data: AuditData) -> Finding:
    """CSWin-S is printed with more FLOPs than it has."""
    ours, printed = (data.printed(4, model, 'flops_g') for model in ('MAFormer-B', 'CSWin-S'))
    right = data.printed(4, 'CSWin-S', 'flops_g', 'cswin')
    return Finding(
        'FLOPs of CSWin-S',
        f'Table 4 prints {printed} G for CSWin-S, whose paper and released code print {right} G: '
        f"MAFormer-B's {ours} G are {_percent(ours, right)} % more, and not "
        f'{_percent(ours, printed)} %.',
        (f'{data.measured(4, "CSWin-S", "flops_g").measured:.2f} G are measured.',),
        Certainty.CERTAIN,
        Extent.COMPARISON,
    )


def wrong_statements(data: AuditData) -> Finding:
    """Numbers and comparisons of the text that the tables contradict."""
    wrong = [
        judged
        for judged in data.claims
        if judged.verdict in _WRONG and judged.claim.relation not in _OF_PARAMETERS
    ]
    numbers = [judged for judged in wrong if judged.claim.printed]
    return Finding(
        'Statements that the tables contradict',
        f'{len(numbers)} numbers and {len(wrong) - len(numbers)} comparisons of the text are not '
        'those of the tables, such as 49.8 mIoU for MAFormer-S with UPerNet, which has '
        f'{data.printed(7, "MAFormer-S", "upernet_miou")} in Table 7.',
        tuple(
            f'{j.claim.place}, {j.claim.says}: {j.claim.printed or "yes"} in the text, '
            f'{j.computed} by Table {j.claim.table} ({j.evidence}).'
            for j in wrong
        ),
        Certainty.CERTAIN,
        Extent.COMPARISON,
    )


def unsupported(data: AuditData) -> Finding:
    """Claims for which the paper prints nothing, but for settings."""
    chosen = [
        judged
        for judged in data.claims
        if judged.verdict is ClaimVerdict.UNCHECKED
        and (
            not judged.claim.printed
            or 'as in Table 1' in judged.claim.says
            or judged.claim.says.startswith('the best')
        )
    ]
    return Finding(
        'Claims without numbers',
        f'{len(chosen)} claims have no counterpart in a table, such as that N = 0.5 is the best '
        'ratio of GLD, and that Table 1 has the rates of dropout.',
        tuple(f'{j.claim.place}, {j.claim.says}: {j.evidence}' for j in chosen),
        Certainty.CERTAIN,
        Extent.COMPARISON,
    )


def small_leads(data: AuditData) -> Finding:
    """Differences that chance may explain."""
    leads = [
        (row, column, rival, number(row, column) - number(rival, column))
        for rows in data.tables.values()
        for row in rows
        if row.own and row.block
        for column, rival in best_rivals(data.tables, row).items()
        if number(row, column) > number(rival, column)
    ]
    tolerances = [data.tolerances[TABLES[r.table].columns[c].metric.name] for r, c, *_ in leads]
    of_seeds = [2**0.5 * tolerance.seeds.width for tolerance in tolerances]
    small = [
        f'Table {row.table}, {row.model}, {column}: {lead} over {rival.model}; a test shows '
        f'differences from {tolerance.resolvable:.2f} on.'
        for (row, column, rival, lead), tolerance in zip(leads, tolerances, strict=True)
        if lead <= tolerance.resolvable
    ]
    beyond = sum(lead > seeds for (*_, lead), seeds in zip(leads, of_seeds, strict=True))
    top1 = data.tolerances['top1']
    return Finding(
        'Differences within chance',
        f'{len(small)} of the {len(leads)} leads of MAFormer over all rivals of its group are '
        'smaller than what a test on the data set shows, by the sampling errors assumed here.',
        (
            *small,
            f'{beyond} of the {len(leads)} leads are larger than what two seeds differ by.',
            f'The ablations of Tables 2 and 3 differ by 0.2 and 0.3 in Top-1; a test shows '
            f'differences from {top1.resolvable:.2f} on, and two seeds differ by up to '
            f'{2**0.5 * top1.seeds.width:.2f}.',
        ),
        Certainty.LIKELY,
        Extent.COMPARISON,
    )


def unlike_sources(data: AuditData) -> Finding:
    """Cells of baselines that no publication prints as the paper does."""
    registered = {misprint.key for misprint in data.misprints}
    compared = [cell for cell in data.sourced if cell.verdict is not SourceVerdict.UNSOURCED]
    unlike = [cell for cell in compared if cell.verdict is SourceVerdict.DIFFERS]
    others = [cell for cell in unlike if (cell.table, cell.model, cell.field) not in registered]
    return Finding(
        'Baselines unlike their sources',
        f'{len(unlike)} of the {len(compared)} cells of baselines that other publications print '
        f'agree with none of them; {len(others)} of these may be later numbers, and the others '
        'are probable misprints.',
        (
            *map(str, others),
            f'No source here prints an accuracy of {"; ".join(without_accuracy(data.sourced))}.',
        ),
        Certainty.CERTAIN,
        Extent.NUMBER,
    )


def probable_misprints(data: AuditData) -> Finding:
    """The register of misprints."""
    return Finding(
        'Probable misprints',
        f'{len(data.misprints)} cells are probably misprints, such as '
        f'{data.printed(7, "MAFormer-S", "sem_fpn_params_m")} M for MAFormer-S with Semantic FPN, '
        'which fit no depths; the tables here keep them as printed.',
        tuple(
            f'Table {m.table}, {m.model}, {m.metric} {m.printed}'
            f'{m.likely and f", probably {m.likely}"}: {m.reason}'
            for m in data.misprints
        ),
        Certainty.LIKELY,
        Extent.NUMBER,
    )


def _percent(larger: Decimal, smaller: Decimal) -> int:
    return round(100 * (larger / smaller - 1))


def _square(row: Row) -> str:
    return ' x '.join([row.description['test_size']] * 2)


PRINTED_FINDINGS = (
    omitted_rival,
    token_labeling,
    parameters,
    cait_row,
    cswin_flops,
    wrong_statements,
    unsupported,
    small_leads,
    unlike_sources,
    probable_misprints,
)
