"""`python -m reproduce evaluate`: the accuracy of one model."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reproduce import files
from reproduce.commands import options
from reproduce.commands.options import SETTINGS, OutputFormat, print_json, print_metrics
from reproduce.errors import UserError
from reproduce.folders import EVALUATIONS
from reproduce.quiet import quiet_libraries
from reproduce.wording import extent

if TYPE_CHECKING:
    from reproduce.evaluate.harness import Job, Outcome

PICTURED = 5  # images in a picture of predictions

app = typer.Typer(
    **SETTINGS,
    help='Measure the accuracy of a model, and keep it as a record.',
    no_args_is_help=True,
)

Output = Annotated[
    Path, typer.Option('--output', help='Folder for the record and the predictions.')
]
Config = Annotated[
    str,
    typer.Option(
        '--config',
        help='A file, one of reproduce/configs, mmdet::... or mmseg::... for one that the package '
        "ships, or a system's name.",
    ),
]
ConfigOptions = Annotated[
    list[str] | None,
    typer.Option(
        help="name=value in place of the config's, such as model.test_cfg.rcnn.score_thr=0.01; "
        'repeat for more.'
    ),
]


@app.command('imagenet')
def imagenet(
    model: Annotated[
        str, typer.Argument(help='A system of Tables 1-4, a MAFormer, or any timm model.')
    ],
    checkpoint: options.Checkpoint,
    data: options.Data,
    processes: options.Processes = 1,
    limit: options.Limit = None,
    batch_size: options.BatchSize = None,
    workers: options.Workers = 4,
    amp: options.Amp = None,
    device: options.Device = None,
    img_size: Annotated[
        int | None, typer.Option(help="Pixels a side, for the model's own.")
    ] = None,
    crop_pct: Annotated[float | None, typer.Option(help="For the model's own.")] = None,
    interpolation: Annotated[
        str | None, typer.Option(help="bilinear, bicubic, ..., for the model's own.")
    ] = None,
    mean: Annotated[
        tuple[float, float, float] | None, typer.Option(help="For the model's own.")
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None, typer.Option(help="For the model's own.")
    ] = None,
    model_kwargs: Annotated[
        list[str] | None,
        typer.Option(help='Constructor arguments, such as token_labeling=true; repeat for more.'),
    ] = None,
    output: Output = EVALUATIONS,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Measure Top-1 and Top-5 on ImageNet-1K's validation images, every image exactly once."""
    from reproduce.tasks.imagenet import Job

    overrides = {
        'img_size': img_size,
        'crop_pct': crop_pct,
        'interpolation': interpolation,
        'mean': mean,
        'std': std,
    }
    job = Job(
        model=model,
        checkpoint=checkpoint,
        data=data,
        arguments=_arguments('--model-kwargs', model_kwargs or []),
        limit=limit,
        **({} if batch_size is None else {'batch_size': batch_size}),
        workers=workers,
        amp=amp and amp.value,
        device=device and device.value,
        preprocessing={k: v for k, v in overrides.items() if v is not None},
    )
    _run(job, processes, output, format)


@app.command('coco')
def coco(
    config: Config,
    checkpoint: options.Checkpoint,
    data: options.Data,
    processes: options.Processes = 1,
    limit: options.Limit = None,
    batch_size: options.BatchSize = None,
    workers: options.Workers = 4,
    amp: options.Amp = None,
    device: options.Device = None,
    cfg_options: ConfigOptions = None,
    output: Output = EVALUATIONS,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Measure box and mask AP on COCO's val2017, every image exactly once."""
    with quiet_libraries():
        from reproduce.tasks.coco import Job

    job = Job(
        model=config,
        checkpoint=checkpoint,
        data=data,
        arguments=_arguments('--cfg-options', cfg_options or []),
        limit=limit,
        **({} if batch_size is None else {'batch_size': batch_size}),
        workers=workers,
        amp=amp and amp.value,
        device=device and device.value,
    )
    _run(job, processes, output, format)


@app.command('ade20k')
def ade20k(
    config: Config,
    checkpoint: options.Checkpoint,
    data: options.Data,
    multi_scale: Annotated[
        bool,
        typer.Option(
            '--multi-scale', help='Also at 0.5 to 1.75 times the size and mirrored, averaged.'
        ),
    ] = False,
    picture: Annotated[
        Path | None,
        typer.Option('--picture', help='A PNG of some images beside their labels and predictions.'),
    ] = None,
    processes: options.Processes = 1,
    limit: options.Limit = None,
    batch_size: options.BatchSize = None,
    workers: options.Workers = 4,
    amp: options.Amp = None,
    device: options.Device = None,
    cfg_options: ConfigOptions = None,
    output: Output = EVALUATIONS,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Measure mIoU on ADE20K's validation images, every image exactly once."""
    with quiet_libraries():
        from reproduce.tasks.ade20k import Job

    job = Job(
        model=config,
        checkpoint=checkpoint,
        data=data,
        arguments=_arguments('--cfg-options', cfg_options or []),
        limit=limit,
        **({} if batch_size is None else {'batch_size': batch_size}),
        workers=workers,
        amp=amp and amp.value,
        device=device and device.value,
        multi_scale=multi_scale,
    )
    if picture is not None:
        files.check_writable(picture.parent)
    record = _run(job, processes, output, format)
    if record is not None and picture is not None:
        from datasets.ade20k import load
        from reproduce.report.pictures import side_by_side

        drawn = side_by_side(load(data, limit=limit), record.with_suffix('.zip'), PICTURED)
        files.write_atomically(picture, drawn)


def _arguments(option: str, entries: list[str]) -> dict[str, Any]:
    """What 'name=value' entries say; values are JSON where they can be."""
    arguments = {}
    for entry in entries:
        name, equals, value = entry.partition('=')
        if not equals or not name.replace('.', '_').isidentifier():
            raise UserError(
                f"{option} '{entry}' is no argument: expected name=value, such as "
                'token_labeling=true.'
            )
        try:
            arguments[name] = json.loads(value.lower() if value in ('True', 'False') else value)
        except json.JSONDecodeError:
            arguments[name] = value
    return arguments


def _run(job: 'Job', processes: int, output: Path, format: OutputFormat) -> Path | None:
    """Evaluate and report; the record, in the first of the processes that a launcher started."""
    from reproduce.evaluate.harness import evaluate

    files.check_writable(output)
    outcome = evaluate(job, processes)
    if outcome is None:
        return None
    path = outcome.save(output)
    _report(outcome, path, format)
    return path


def _report(outcome: 'Outcome', path: Path, format: OutputFormat) -> None:
    from reproduce.judge.references import check_reference

    e = outcome.evaluation
    check = check_reference(e)
    kept = path.with_name(f'{path.stem}{e.predictions}')
    if format is OutputFormat.JSON:
        result = {
            **e.model_dump(mode='json'),
            'predictions': str(kept),
            'reference': check.reference and check.reference.model_dump(),
            'reference_verdicts': check.verdicts,
            'written': str(path),
        }
        print_json(result)
        return
    print(f'{e.system or e.model}, {extent(e.data.images, e.data.complete, e.data.problems)}')
    print_metrics(e.metrics, e.intervals)
    for metric, verdict in check.verdicts.items():
        source = check.reference.source
        print(f'{metric}: reference {check.value(metric):.2f}: {verdict} ({source})')
    rate = e.data.images / e.provenance.seconds
    print(
        f'{e.precision} on {e.provenance.processes} x {e.provenance.device}, '
        f'{e.provenance.seconds:.1f} s, {rate:.1f} images/s'
    )
    print(f'Written: {path}, {kept}.')
