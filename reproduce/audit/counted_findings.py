"""Findings that also rest on counts: of published networks, and of MAFormer in all its readings."""

from reproduce.audit.audit_data import AuditData
from reproduce.audit.closed_form import BUILT, OPTIONS, count
from reproduce.audit.findings import Certainty, Extent, Finding, listed
from reproduce.audit.readings import widths_that_fit
from reproduce.judge.cells import Cell
from reproduce.judge.verdict import Verdict

WINDOWS = 'windows of 14'
_TABLES = {'mask_rcnn': 5, 'cascade_mask_rcnn': 6}
# MAFormer and its rival, the "previous best" of the text. MAFormer-S has the depths that fit.
_PAIRS = (
    ('MAFormer-S', '3-3-8-3', 'CSWin-T'),
    ('MAFormer-B', '', 'CSWin-S'),
    ('MAFormer-L', '', 'CSWin-B'),
)


def flop_conventions(data: AuditData) -> Finding:
    """Tables 5 and 6 compare layer FLOPs of MAFormer with total FLOPs of CSWin."""
    search = data.search
    crossed = [reading['local'].startswith('stripes') for reading in search.readings]
    return Finding(
        'FLOPs of two kinds',
        'Tables 5 and 6 compare layer FLOPs of MAFormer with total FLOPs of CSWin: with Mask R-CNN '
        f'MAFormer-S, -B and -L need {_ratios(data, "mask_rcnn", "layer")} times the layer '
        f'FLOPs of CSWin-T, -S and -B, where {_ratios(data, "mask_rcnn")} times are '
        'printed; their total FLOPs depend on what stages 3 and 4 attend to.',
        (
            f'With layer FLOPs, {len(search.best):,} of {len(search.readings):,} readings of the '
            f'block meet {search.most} of the {len(search.targets)} printed cells of MAFormer. If '
            f'all FLOPs were total, none would meet more than {search.met_in_total.max()}, and '
            'none with cross-shaped attention, which is the default of the paper, more than '
            f'{search.met_in_total[crossed].max()}.',
            f'Mask R-CNN: {_in_total(data, "mask_rcnn")}',
            f'Cascade R-CNN: {_in_total(data, "cascade_mask_rcnn")}',
            'Swin is printed in both ways, too: from Mask R-CNN to Cascade R-CNN the printed FLOPs '
            f'grow by {listed(_growth(data, f"Swin-{size}") for size in "TSB")} G for Swin-T, -S '
            f'and -B, and by {_growth(data, "Res50")} G for ResNet-50.',
        ),
        Certainty.COUNTED,
        Extent.RESULT,
    )


def flop_cells(data: AuditData, framework: str) -> list[tuple[Cell, Cell]]:
    """Return the measured FLOPs of MAFormer-S, -B and -L, each with those of its rival."""
    table = _TABLES[framework]
    return [
        (data.measured(table, ours, 'flops_g', variant), data.measured(table, rival, 'flops_g'))
        for ours, variant, rival in _PAIRS
    ]


def total_ratios(data: AuditData, framework: str) -> dict[str, list[tuple[float, float, float]]]:
    """Return the ratios of MAFormer's total FLOPs to CSWin's, by what stages 3 and 4 attend to.

    Returns:
        for S, B and L the ratio of the model that is otherwise as built, and the smallest and the
        largest of all readings that meet the most cells.
    """
    search = data.search
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in OPTIONS['attention']}
    for ours, rival in flop_cells(data, framework):
        ratios = search.flops(ours.model, framework, 'total') / rival.flops('total')
        for name, of_sizes in found.items():
            built = ratios[search.readings.index(BUILT | {'attention': name})]
            best = [ratios[i] for i in search.best if search.readings[i]['attention'] == name]
            of_sizes.append((built, min(best), max(best)))
    return found


def _in_total(data: AuditData, framework: str) -> str:
    by_attention = total_ratios(data, framework)
    windows = listed(f'{built:.2f}' for built, *_ in by_attention[WINDOWS])
    spans = [
        f'{min(low for _, low, _ in of_size):.2f} to {max(high for *_, high in of_size):.2f}'
        for of_size in zip(*by_attention.values(), strict=True)
    ]
    return (
        f'printed {_ratios(data, framework)} times, layer {_ratios(data, framework, "layer")}, '
        f'total {_ratios(data, framework, "total")} if stages 3 and 4 attend to the whole map, as '
        f'the text says, and {windows} with windows of 14 x 14 tokens, which no printed cell '
        f'excludes; {listed(spans)} in all readings that meet {data.search.most} cells.'
    )


def depths_of_small(data: AuditData) -> Finding:
    """Widths and depths of MAFormer-S contradict its FLOPs."""
    search = data.search
    built = search.readings.index(BUILT)
    printed, fewer = (data.measured(1, 'MAFormer-S', 'flops_g', v) for v in ('', '3-3-8-3'))
    return Finding(
        'Depths or widths of MAFormer-S',
        'MAFormer-S with the widths and depths of Table 1, '
        f'{data.row(1, "MAFormer-S").description["depths"]}, contradicts its FLOPs in Tables 1, '
        f'4, 5 and 7: at 224 x 224 it needs {printed.measured:.1f} G, and {printed.paper} '
        'are printed.',
        (
            f'As printed, no reading of the block meets more than {search.met_as_printed.max()} of '
            f'the {len(search.targets)} cells of MAFormer, and the one built here meets '
            f'{search.met_as_printed[built]}. With two MAF blocks fewer, such as {fewer.variant}, '
            f'which needs {fewer.measured:.1f} G, it meets {search.met[built]}.',
            f'{len(widths_that_fit(search))} sets of other widths with the printed depths meet as '
            'many, such as 56-112-320-512: which of the two is misprinted cannot be known.',
        ),
        Certainty.COUNTED,
        Extent.COMPARISON,
    )


def layer_of_gld(data: AuditData) -> Finding:
    """A layer of GLD over all tokens does not fit the printed parameters."""
    search, option = data.search, 'all tokens to half'
    literal, built = (
        count(reading, 'classifier', *search.variants['MAFormer-S'], (224, 224)).params / 1e6
        for reading in (BUILT | {'gld': option}, BUILT)
    )
    met = search.met[[reading['gld'] == option for reading in search.readings]].max()
    return Finding(
        'The layer of GLD',
        'The fully connected layer of GLD cannot act on all tokens, as section 3.2 says: it would '
        f'add {literal - built:.0f} M parameters to the printed '
        f'{data.printed(1, "MAFormer-S", "params_m")} M of MAFormer-S.',
        (
            f'No reading with such a layer meets more than {met} of the {len(search.targets)} '
            'cells. Layers on a grid of 14 x 14 tokens, to 7 x 7 or to half of the tokens, meet as '
            'many as any.',
        ),
        Certainty.COUNTED,
        Extent.COMPARISON,
    )


def many_readings(data: AuditData) -> Finding:
    """Text and tables do not determine the block."""
    search = data.search
    excluded = [
        f'{option} ({name})'
        for name, of in search.by_option.items()
        for option, n in of.items()
        if not n
    ]
    histogram = [f'{n} cells {readings:,}' for n, readings in search.histogram.items()]
    return Finding(
        'The block is not identified',
        f'{len(search.best):,} of {len(search.readings):,} readings of the block meet '
        f'{search.most} of the {len(search.targets)} printed cells, so text and tables do not '
        'determine the network.',
        (
            f'The readings are all combinations of options for {listed(OPTIONS)}. Only '
            f'{listed(excluded)} are in none of the best.',
            f'Readings by the number of cells that they meet: {", ".join(histogram)}.',
        ),
        Certainty.COUNTED,
        Extent.COMPARISON,
    )


def counted_otherwise(data: AuditData) -> Finding:
    """Parameters and FLOPs of baselines that no count confirms."""
    misprinted = {misprint.key for misprint in data.misprints}
    found = [
        cell
        for cell in data.cells
        if cell.verdict is Verdict.KNOWN
        and cell.column.metric.is_complexity
        and not cell.row.own
        and (cell.table, cell.model, cell.metric) not in misprinted
    ]
    return Finding(
        'Baselines that count otherwise',
        f'{len(found)} printed parameters and FLOPs of baselines are not those of their networks, '
        'and are no known misprints.',
        tuple(f'Table {c.table}, {c.model}, {c.metric}: {c.reason}.' for c in found),
        Certainty.COUNTED,
        Extent.NUMBER,
    )


def _growth(data: AuditData, model: str) -> int:
    return int(data.printed(6, model, 'flops_g') - data.printed(5, model, 'flops_g'))


def _ratios(data: AuditData, framework: str, convention: str = '') -> str:
    """Return MAFormer's FLOPs divided by CSWin's for S, B and L, as printed or in a convention."""
    ratios = [
        ours.flops(convention) / rival.flops(convention)
        if convention
        else float(ours.paper) / float(rival.paper)
        for ours, rival in flop_cells(data, framework)
    ]
    return listed(f'{ratio:.2f}' for ratio in ratios)


COUNTED_FINDINGS = (
    flop_conventions,
    depths_of_small,
    layer_of_gld,
    many_readings,
    counted_otherwise,
)
