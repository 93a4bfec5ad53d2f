"""`python -m reproduce ablation`: the paper's claims about its design, tested by training."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from tabulate import tabulate

from reproduce.ablation import rendering
from reproduce.ablation.outcomes import Outcomes, load_outcomes
from reproduce.ablation.study import Study, load_study
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, OutputFormat, print_json
from reproduce.files import write_atomically
from reproduce.folders import ABLATIONS

if TYPE_CHECKING:
    from reproduce.ablation.budget import Budget

app = typer.Typer(**SETTINGS)


@app.command()
def ablation(
    study: Annotated[
        str, typer.Argument(help='micro, small or paper, or a TOML file of your own.')
    ] = 'micro',
    data: Annotated[
        Path | None, typer.Option('--data', help='Folder of the images; micro draws its own.')
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help='Folder of label maps, for a study that trains no annotator.'),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Train with so many seeds.  [default: the study's]")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(help='Runs at a time.  [default: one a GPU, or as many as the cores allow]'),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            '--workers', help='Data-loading workers, for each run.  [default: 0 on CPUs, 4 on GPUs]'
        ),
    ] = None,
    device: options.Device = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            '--dry-run', help='Say what it would cost and could resolve, and train nothing.'
        ),
    ] = False,
    on: Annotated[
        str | None,
        typer.Option(
            help='With --dry-run: estimate for these GPUs, such as 8xV100.  [default: this machine]'
        ),
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(help='Folder of the trainings.  [default: work_dirs/ablations/STUDY]'),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            '--output', help='Folder of the CSVs and tables.  [default: results/ablations/STUDY]'
        ),
    ] = None,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Test the paper's claims about its design: train the variants side by side, and judge.

    Each variant is trained with several seeds, evaluated as everything else is, and compared in
    pairs. A study that was ended in any way goes on with the same command.
    """
    chosen = load_study(study, seeds)
    work = work or Path('work_dirs/ablations') / chosen.name
    output = output or ABLATIONS / chosen.name
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.ablation.execution import Execution, execute

    execution = Execution(chosen, work, data, labels, jobs, device and device.value, workers)
    if dry_run:
        from reproduce.ablation.budget import estimate

        budget = estimate(execution, on, _earlier(chosen, output))
        if format is OutputFormat.JSON:
            variants = [variant.model_dump() for variant in budget.variants]
            print_json({**asdict(budget), 'variants': variants})
        else:
            print(_budget(chosen, budget))
        return
    outcomes = execute(execution, output)
    write_atomically(output / 'claims.md', rendering.markdown(outcomes))
    write_atomically(output / 'claims.tex', rendering.latex(outcomes))
    if format is OutputFormat.JSON:
        print_json({'study': chosen.name, 'claims': rendering.as_dict(outcomes.judgements)})
    else:
        print(f'\n{rendering.text(outcomes)}\n\nWritten: {output}')


def _earlier(study: Study, output: Path) -> Outcomes | None:
    """Return earlier outcomes of the same study, if there are some."""
    if not (output / 'study.toml').is_file():
        return None
    earlier = load_outcomes(output)
    return earlier if earlier.study.identity == study.identity else None


def _budget(study: Study, budget: 'Budget') -> str:
    from reproduce.evaluate.planning import duration

    rows = [
        [
            v.variant,
            f'{v.params / 1e6:.2f}',
            f'{v.total_flops / 1e9:.3f}',
            duration(budget.seconds[v.variant]),
        ]
        for v in budget.variants
    ]
    table = tabulate(rows, ['variant', 'params M', 'FLOPs G', 'a run'], disable_numparse=True)
    found = [
        f'{claim.says}: {budget.resolvable[claim.name]:.2f}'
        + (f' (paper {claim.paper})' if claim.paper else '')
        for claim in study.claim
    ]
    devices = budget.devices
    return '\n\n'.join(
        [
            f'Study {study.name}: {study.about} {study.data}'.strip(),
            table,
            f'{budget.runs} runs ({len(study.variant)} variants x {len(study.seeds)} seeds) on '
            f'{budget.train_images:,} training and {budget.val_images:,} validation images, '
            f'{budget.places} at a time on {devices.name}: {duration(budget.total)}. '
            f'{devices.rate / 1e9:,.1f} G multiply-adds/s each ({devices.basis}). Computing alone: '
            'reading images and starting processes come on top.',
            'Smallest true difference in Top-1 (%) that would be found in 80 % of cases, at a '
            f'spread of paired differences of {budget.spread:.2f} ({budget.spread_source}):\n'
            + '\n'.join(found),
            study.limits.strip(),
        ]
    )
