"""`python -m reproduce ablation`: the paper's claims about its design, tested by training."""

from pathlib import Path
from typing import Annotated

import typer

from reproduce.base import terminal
from reproduce.base.files import write_atomically
from reproduce.base.folders import ABLATIONS
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, OutputFormat, print_json

app = typer.Typer(**SETTINGS)


@app.command()
def ablation(
    study: Annotated[
        str, typer.Argument(help='micro, small, medium or paper, or a TOML file of your own.')
    ] = 'micro',
    data: Annotated[
        Path | None, typer.Option('--data', help='Folder of the images; micro draws its own.')
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help='Folder of label maps, or an archive of it, for a study that trains no annotator.'
        ),
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
    """Train variants of the design side by side, and judge the paper's claims about it.

    Each variant is trained with several seeds, evaluated as everything else is, and compared in
    pairs. A study that was ended in any way goes on with the same command.
    """
    # Imported here, so that `--help` does not wait for scipy.
    from reproduce.ablation import rendering
    from reproduce.ablation.outcomes import earlier_outcomes
    from reproduce.ablation.study import load_study

    chosen = load_study(study, seeds)
    work = work or Path('work_dirs/ablations') / chosen.name
    output = output or ABLATIONS / chosen.name
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.ablation.execution import Execution, execute

    execution = Execution(chosen, work, data, labels, jobs, device and device.value, workers)
    if dry_run:
        from reproduce.ablation.budget import estimate, render

        budget = estimate(execution, on, earlier_outcomes(chosen, output))
        if format is OutputFormat.JSON:
            print_json(budget.as_dict())
        else:
            terminal.show(*render(chosen, budget))
        return
    outcomes = execute(execution, output)
    write_atomically(output / 'claims.md', rendering.markdown(outcomes))
    write_atomically(output / 'claims.tex', rendering.latex(outcomes))
    if format is OutputFormat.JSON:
        print_json(rendering.as_dict(outcomes))
    else:
        terminal.show('', *rendering.text(outcomes), f'Written: {output}')
