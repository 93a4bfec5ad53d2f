"""`python -m reproduce rehearse`: a few steps of the real trainings, before days are spent."""

import signal
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from reproduce.commands import options
from reproduce.commands.options import SETTINGS, OutputFormat, print_json

app = typer.Typer(**SETTINGS)


@app.command()
def rehearse(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Recipes and configs, or patterns such as 'maformer_base*' or 'upernet*'.  "
            '[default: all recipes, and the configs of MAFormer at full size]',
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            '--data',
            help='Folder of ImageNet, COCO or ADE20K, or of several of them.  [default: drawn data '
            'of their sizes and numbers of classes]',
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the annotator's label maps, CLASS/NAME.pt, or an archive of it."
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            help='Folder that the trainings would write into; what is written is removed.'
        ),
    ] = Path(),
    steps: Annotated[
        int, typer.Option(min=1, help='Steps of each training that are measured.')
    ] = 10,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images of a step in each process.  [default: the training's own]"
        ),
    ] = None,
    grad_checkpointing: options.GradCheckpointing = False,
    accumulation: Annotated[
        int,
        typer.Option(
            min=1, help='Parts of a step of a recipe in each process, one after the other.'
        ),
    ] = 1,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help='Processes on this machine.  [default: one for each GPU]'),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help='Data-loading workers, for each of the processes.  [default: those of `train`]'
        ),
    ] = None,
    amp: Annotated[
        Literal['fp16', 'bf16', 'off'] | None,
        typer.Option(
            '--amp',
            help='Compute in mixed precision; off is fp32 throughout.  [default: as in `train`: '
            'recipes on GPUs only]',
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help='Write DEVICE.md into this folder, anew after each training.'),
    ] = None,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Take a few steps of the real trainings on this machine, before days are spent.

    Each training takes its steps at full image size and augmentation, is saved, resumed and
    evaluated, by the commands `train` and `evaluate`. Ends with status 1 if one fails.
    """
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.base.files import check_writable, write_atomically
    from reproduce.train import rehearsal_report
    from reproduce.train.rehearsal import RehearsalRequest, rehearse

    request = RehearsalRequest(
        names=tuple(names or ()),
        data=data and data.absolute(),
        labels=labels and labels.absolute(),
        output=output,
        steps=steps,
        batch_size=batch_size,
        grad_checkpointing=grad_checkpointing,
        accumulation=accumulation,
        processes=processes,
        workers=workers,
        amp=amp,
    )
    if report is not None:
        check_writable(report)

    # As Ctrl-C does, it ends the training under way and removes what was written.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    rows = []
    for row in rehearse(request):
        rows.append(row)
        print(f'{row.name}: {row.failure or "passes"}', file=sys.stderr, flush=True)
        if report is not None:
            path = report / rehearsal_report.file_name()
            write_atomically(path, rehearsal_report.as_page(rows))
    if format is OutputFormat.JSON:
        print_json(rehearsal_report.as_dict(rows))
    else:
        print(rehearsal_report.as_text(rows))
    raise typer.Exit(any(row.failure for row in rows))
