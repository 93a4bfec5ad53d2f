"""All that is known about a cell or a record: what `show` prints, and the page when one clicks."""

from pathlib import Path
from typing import Any

from reproduce.audit.sources import load_misprints
from reproduce.base.errors import UserError
from reproduce.base.folders import PAPER_OPTION
from reproduce.base.wording import extent
from reproduce.evaluate.attestation import check_attested
from reproduce.evaluate.records import Evaluation
from reproduce.judge.cells import Cell
from reproduce.judge.lookup import Found, address
from reproduce.judge.references import check_reference
from reproduce.judge.verdict import Verdict
from reproduce.paper import load_tolerances
from reproduce.report.layout import off_by
from reproduce.systems import load_systems
from reproduce.weights.registry import Public, load_public


def render(found: Found) -> list[str]:
    """Return cells and records as text, a part for each."""
    parts = {}
    for cell in found.cells:
        values = {
            'row': cell.model,
            'paper': cell.paper,
            'measured': '' if cell.measured is None else f'{cell.measured:.6f}',
            'verdict': cell.verdict,
            'reference': cell.reference,
            'against the reference': cell.reference_verdict,
        }
        parts[address(cell)] = values | cell_facts(cell) | {'record': cell.record}
    for path, e in found.evaluations.items():
        files = {'predictions': str(path.parent / e.predictions), 'attestation': _attested(path, e)}
        parts[str(path)] = record_facts(e) | files
    texts = []
    for title, facts in parts.items():
        width = max(len(name) for name, text in facts.items() if text)
        shown = [f'  {name:{width}}  {text}' for name, text in facts.items() if text]
        texts.append('\n'.join([title, *shown]))
    return texts


def as_dict(found: Found) -> dict[str, Any]:
    """Return cells and records as plain data."""
    return {
        'cells': [
            {**cell.model_dump(mode='json'), 'to_measure': commands(cell)} for cell in found.cells
        ],
        'evaluations': [
            {'file': str(path), 'attested': _attested(path, e), **e.model_dump(mode='json')}
            for path, e in found.evaluations.items()
        ],
    }


def _attested(path: Path, evaluation: Evaluation) -> str:
    """Return the attestation of a record, shortened, or what does not match it."""
    try:
        check_attested(path, required=True)
    except UserError as error:
        return str(error)
    return evaluation.attestation.short


def cell_facts(cell: Cell) -> dict[str, str]:
    """Return what is known about a cell apart from its values, by name; without empty facts."""
    system = next(system for system in load_systems() if system.name == cell.system)
    public, facts = _public(cell), {'off by': off_by(cell)}
    if cell.tolerance is not None:
        reason = load_tolerances()[cell.column.metric.name].reason
        facts['tolerance'] = f'± {cell.tolerance:.4g}. {reason}'
    if cell.resolvable is not None:
        facts['resolvable'] = f'differences from {cell.resolvable:.2f} on, by the number of images'
    facts['reason'] = cell.reason
    if cell.layer_flops_g is not None and cell.total_flops_g is not None:
        facts['FLOPs'] = (
            f'{cell.layer_flops_g:.2f} G in convolutions and linear layers, '
            f'{cell.total_flops_g:.2f} G with the products of attention; the printed value counts '
            f'the {"former" if cell.convention == "layer" else "latter"} ({cell.convention})'
        )
    key = cell.table, cell.model, cell.metric
    facts['misprint'] = ''.join(m.reason for m in load_misprints() if m.key == key)
    if cell.reference:
        against = f', {cell.published.meaning}' if cell.published else ''
        facts['published'] = f'{cell.reference}{against}: {cell.reference_source}'
    if cell.variant:
        facts['variant'] = f'{cell.variant}; the paper prints the row, not this variant'
    arguments = ''.join(f' {name}={value}' for name, value in system.arguments.items())
    facts |= {
        'system': cell.system,
        'config': system.config or '',
        'timm model': f'{system.model}{arguments}' if system.model else '',
        'source': system.source,
        'remark': system.note if system.note not in cell.reason else '',
    }
    if cell.verdict is Verdict.NOT_RUN:
        facts['weights'] = f'none are public; /weights/{cell.system}.safetensors is expected'
        if public:
            notes = '; '.join(filter(None, (public.licence, public.protocol)))
            facts['weights'] = f'{public.url} ({notes})'
    facts['to measure it'] = ' && '.join(commands(cell))
    return {name: text for name, text in facts.items() if text}


def record_facts(evaluation: Evaluation) -> dict[str, str]:
    """Return what an evaluation's record says, by name; without empty facts."""
    e, p, check = evaluation, evaluation.provenance, check_reference(evaluation)
    metrics = [
        f'{name} {value:.2f}'
        + (' (95 %: {:.2f} to {:.2f})'.format(*e.intervals[name]) if name in e.intervals else '')
        for name, value in e.metrics.items()
    ]
    facts = {
        'task': e.task,
        'model': e.model + ''.join(f' {name}={value}' for name, value in e.arguments.items()),
        'checkpoint': f'{e.checkpoint.file}, SHA-256 {e.checkpoint.sha256}',
        'data': f'{e.data.split}, {extent(e.data.images, e.data.complete, e.data.problems)}, '
        f'{e.data.classes} classes, fingerprint {e.data.fingerprint}',
        'preprocessing': ', '.join(f'{k}={v}' for k, v in e.preprocessing.items()),
        'set by hand': ', '.join(e.set_by_hand),
        'set by the weights': ', '.join(e.from_weights),
        'metrics': ', '.join(metrics),
        'warnings': ' '.join(e.warnings),
        **{
            f'reference {metric}': f'{check.value(metric):.2f}, {verdict}: {check.reference.source}'
            for metric, verdict in check.verdicts.items()
        },
        'date': p.date,
        'command': p.command,
        'commit': p.commit or 'not recorded',
        'device': f'{p.processes} x {p.device}, {e.precision}, batches of {p.batch_size}, '
        f'{p.seconds:.1f} s',
        'versions': ', '.join(f'{name} {version}' for name, version in p.versions.items()),
    }
    return {name: text for name, text in facts.items() if text}


def commands(cell: Cell) -> list[str]:
    """Return the commands that measure parameters and FLOPs, or an accuracy that was not yet."""
    if cell.verdict is Verdict.CITED:
        return []
    reproduce = f'python -m reproduce{PAPER_OPTION}'
    run = f'{reproduce} table {cell.table} --models {cell.system}'
    if cell.column.metric.is_complexity:
        return [run]
    if cell.verdict is not Verdict.NOT_RUN:
        return []
    fetch = f'{reproduce} checkpoints {cell.system} --checkpoints /weights --download'
    return [fetch] * bool(_public(cell)) + [f'{run} --data /data --checkpoints /weights']


def _public(cell: Cell) -> Public | None:
    return next((entry for entry in load_public() if entry.system == cell.system), None)
