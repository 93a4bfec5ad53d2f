"""A rehearsal as text, as JSON, and as a page of Markdown."""

import re
import shlex
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from reproduce.base.terminal import Part, TextTable
from reproduce.base.versions import libraries
from reproduce.train.checks import ReadinessCheck
from reproduce.train.rehearsal import Rehearsal, RehearsalRequest, RehearsalRow
from reproduce.train.trial import GIB

_HEADINGS = ('training', 'fits', 'peak GiB', 'images/s', 'limited by', 'days', 'verdict')
_ALIGN = ('left', 'left', 'right', 'right', 'left', 'right', 'left')
_RIGHT = ('peak GiB', 'images/s', 'days')


def as_parts(rehearsal: Rehearsal, markdown: bool = False) -> list[Part]:
    """Return the tables of a rehearsal, and what to change."""
    checks = [_check_cells(c) for c in (*rehearsal.machine.checks, *rehearsal.checks)]
    rows = [_row_cells(row) for row in rehearsal.rows]
    heads = ('check', 'found', '')
    if markdown:
        # Numbers are set as they are: tabulate would drop the zeros at their end.
        parts = [
            tabulate(checks, heads, 'github', disable_numparse=True),
            tabulate(rows, _HEADINGS, 'github', colalign=_ALIGN, disable_numparse=True),
        ]
    else:
        parts = [TextTable(heads, checks), TextTable(_HEADINGS, rows, _RIGHT)]
    bullet = '* ' if markdown else ''
    lines = [f'{bullet}{c.name}: {c.advice}' for c in _with_advice(rehearsal)]
    for row in rehearsal.rows:
        lines += [
            f'{bullet}{row.name}: {sentence}' for sentence in (*row.reasons, row.advice) if sentence
        ]
    if lines:
        parts.append('\n'.join(lines))
    passing = sum(row.passes for row in rehearsal.rows)
    left = rehearsal.planned - len(rehearsal.rows)
    rest = f'; {left} not reached' if left else ''
    parts.append(f'{passing} of {len(rehearsal.rows)} pass{rest}.')
    return parts


def as_dict(rehearsal: Rehearsal) -> dict[str, Any]:
    """Return a rehearsal as a JSON object."""
    return {
        'device': rehearsal.machine.device,
        'processes': rehearsal.machine.processes,
        'passes': rehearsal.passes,
        'checks': [asdict(c) for c in (*rehearsal.machine.checks, *rehearsal.checks)],
        'trainings': [
            {
                'name': row.name,
                'verdict': _verdict(row),
                'fits': row.fits,
                'reasons': row.reasons,
                'advice': row.advice,
                **(_measured(row) if row.trial else {}),
            }
            for row in rehearsal.rows
        ],
    }


def as_markdown(rehearsal: Rehearsal) -> str:
    """Return a rehearsal as a page, with the command that it comes from."""
    versions = libraries()
    names = ', '.join(f'{name} {versions[name]}' for name in ('python', 'torch', 'timm'))
    request = rehearsal.request
    data = 'drawn data' if request.data is None else 'data of its own'
    text = '\n\n'.join(as_parts(rehearsal, markdown=True))
    text = text.replace(str(request.output.absolute()), 'the output folder')
    return (
        f'# A rehearsal on {rehearsal.machine.device}\n\n'
        f'Found by `{_command(request)}`, with {names}; {rehearsal.machine.processes} '
        f'{"process" if rehearsal.machine.processes == 1 else "processes"}, {data}, '
        f'{request.steps} {"step" if request.steps == 1 else "steps"} each. `days` is what the '
        'whole training would take on this device, at this batch.\n\n'
        f'{text}\n'
    )


def _command(request: RehearsalRequest) -> str:
    """Return the command of a rehearsal, as it would be given on any machine."""
    words = ['python', '-m', 'reproduce', 'rehearse', *request.names]
    words += ['--steps', str(request.steps)]
    for option, value in (
        ('--batch-size', request.batch_size),
        ('--processes', request.processes),
        ('--workers', request.workers),
        ('--amp', 'off' if request.precision == 'fp32' else request.precision),
        ('--accumulation', None if request.accumulation == 1 else request.accumulation),
        ('--data', request.data and 'DATA'),
        ('--labels', request.labels and 'LABELS'),
    ):
        words += [] if value is None else [option, str(value)]
    return shlex.join([*words, *(['--grad-checkpointing'] * request.grad_checkpointing)])


def file_name(device: str) -> str:
    """Return what the page of a device is called."""
    return re.sub('[^A-Za-z0-9.]+', '-', device).strip('-') + '.md'


def _with_advice(rehearsal: Rehearsal) -> list[ReadinessCheck]:
    return [c for c in (*rehearsal.machine.checks, *rehearsal.checks) if c.advice]


def _check_cells(check: ReadinessCheck) -> tuple[str, ...]:
    return check.name, check.found, check.state


def _row_cells(row: RehearsalRow) -> tuple[str, ...]:
    fits = {True: 'yes', False: 'no', None: ''}[row.fits]
    if row.trial is None:
        return row.name, fits, '', '', '', '', _verdict(row)
    trial = row.trial
    limit = trial.limited_by
    if limit == 'loader':
        limit = f'loader, {100 * trial.waiting_share:.0f} %'
    return (
        row.name,
        fits,
        f'{trial.peak_bytes / GIB:.1f}',
        f'{trial.images_per_s:.3g}',
        limit,
        f'{trial.days:,.1f}' if trial.days < 100 else f'{trial.days:,.0f}',
        _verdict(row),
    )


def _verdict(row: RehearsalRow) -> str:
    return 'passes' if row.passes else 'fails'


def _measured(row: RehearsalRow) -> dict[str, Any]:
    trial = row.trial
    return {
        'peak_gib': trial.peak_bytes / GIB,
        'images_per_s': trial.images_per_s,
        'computed_images_per_s': trial.computed_images_per_s,
        'loader_images_per_s': trial.loader_images_per_s,
        'evaluated_images_per_s': trial.evaluated_images_per_s,
        'waiting_share': trial.waiting_share,
        'limited_by': trial.limited_by,
        'days': trial.days,
        'disk_gib': trial.disk_bytes / GIB,
        'images_per_step': trial.step_images,
        'losses': trial.losses,
        'loss_after_save': trial.next_loss[0],
        'loss_after_resumption': trial.next_loss[1],
    }
