"""Measure the accuracy of a model, and keep it as a record."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option

from reproduce.base import files
from reproduce.base.errors import UserError
from reproduce.base.folders import EVALUATIONS
from reproduce.base.job_options import KEY_VALUES, ConfigOptions, with_fields_of
from reproduce.base.processes import start_again
from reproduce.base.wording import extent
from reproduce.commands import options
from reproduce.tasks import TASKS, Task
from reproduce.tasks.job import Checkpoint, Job
from reproduce.weights import store

app = typer.Typer(**options.SETTINGS, help=__doc__, no_args_is_help=True)

Output = Annotated[Path, Option(help='Folder for the record and the predictions.')]

Resume = Annotated[
    bool,
    Option('--resume', help='Continue an interrupted run with the same weights, data and options.'),
]


@dataclass
class Preprocessing:
    """What replaces a classifier's own preprocessing, by timm's names of its options."""

    img_size: Annotated[int | None, Option(help='Pixels a side.')] = None
    crop_pct: Annotated[
        float | None, Option(help="The centre crop's side over the image's short side.")
    ] = None
    crop_mode: Annotated[
        Literal['center', 'squash', 'border'] | None,
        Option(help='center cuts a square; squash and border resize the whole image.'),
    ] = None
    # Of timm's, those that do not draw one of the others for each image.
    interpolation: Annotated[
        Literal['nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos'] | None,
        Option(help='Of the resizing.'),
    ] = None
    mean: Annotated[
        tuple[float, float, float] | None, Option(help='Of red, green and blue, from 0 to 1.')
    ] = None
    std: Annotated[tuple[float, float, float] | None, Option(help='Their deviations.')] = None
    use_train_size: Annotated[
        bool, Option('--use-train-size', help="Take timm's size and crop of the training.")
    ] = False


def _classifier(task: Task) -> Callable[..., None]:
    @with_fields_of(Job, without=['multi_scale', 'checkpoint'])
    @with_fields_of(Preprocessing)
    def evaluate(
        ctx: typer.Context,
        model: Annotated[
            str, Argument(help='A system of the tables, a MAFormer, or any timm model.')
        ],
        options_file: options.OptionsFile = None,
        checkpoint: Checkpoint = '',
        pretrained: Annotated[
            bool, Option('--pretrained', help="Take timm's own weights, from the Hugging Face Hub.")
        ] = False,
        model_kwargs: Annotated[
            list[str] | None,
            Option(
                metavar=KEY_VALUES,
                help='Constructor arguments, such as token_labeling=True.',
            ),
        ] = None,
        processes: options.Processes = 1,
        output: Output = EVALUATIONS,
        resume: Resume = False,
        format: options.Format = 'text',
        **given: Any,
    ) -> None:
        if pretrained == bool(checkpoint):
            raise UserError('name the weights, by either --checkpoint or --pretrained.')
        _check_places(model, checkpoint, given['data'])
        start_again(processes)
        # Imported here, so that `--help` does not wait for torch.
        from reproduce.openmmlab.cfg_options import parse
        from reproduce.systems import timm_names
        from reproduce.tasks.classification import resolve

        if pretrained:
            checkpoint = timm_names.pretrained(resolve(model, {})[1])
        replaced = {field.name: given.pop(field.name) for field in fields(Preprocessing)}
        # None and False are the defaults; 0 is not, and refused.
        given['preprocessing'] = {
            name: value
            for name, value in replaced.items()
            if value is not None and value is not False
        }
        arguments = parse(model_kwargs or [], '--model-kwargs')
        job = Job(task.name, model, checkpoint, arguments=arguments, **given)
        _run(job, output, resume, format, options.as_toml(ctx))

    evaluate.__doc__ = f"""Measure Top-1 and Top-5 on {task.validation_set}.

    Images are prepared as timm's own validation does it for the model: its config says size, crop,
    interpolation, mean and standard deviation, those for testing where it has such. Weights of
    `train imagenet` say the size and the crop that they were trained for. The record keeps all of
    these, and which were replaced.
    """
    return evaluate


def _config_in(ctx: typer.Context, value: str) -> str:
    """Return the config, which a TOML file of options names if `value` is one."""
    found = options.read_options(ctx, value) if value.endswith('.toml') else value
    if found is None:
        raise UserError(f"{value}: 'config' is missing.")
    return found


def _of_config(task: Task) -> Callable[..., None]:
    @with_fields_of(Job, without={'multi_scale'} - {*task.kind.options})
    def evaluate(
        ctx: typer.Context,
        config: Annotated[
            str,
            Option(
                is_eager=True,
                callback=_config_in,
                help='A file, one of reproduce/configs, mmdet::... or mmseg::... for one that the '
                "package ships, or a system's name. Or a TOML file of options with it, such as "
                "every run writes; the command line's go first.",
            ),
        ],
        cfg_options: ConfigOptions = None,
        processes: options.Processes = 1,
        output: Output = EVALUATIONS,
        resume: Resume = False,
        format: options.Format = 'text',
        **given: Any,
    ) -> None:
        _check_places(Path(config).stem, given['checkpoint'], given['data'])
        start_again(processes)
        from reproduce.openmmlab.cfg_options import parse  # as in `_classifier`

        job = Job(task.name, config, arguments=parse(cfg_options or []), **given)
        _run(job, output, resume, format, options.as_toml(ctx))

    measured = {'detection': 'box and mask AP and AR', 'segmentation': 'mIoU'}[task.kind.name]
    evaluate.__doc__ = f'Measure {measured} on {task.validation_set}.'
    return evaluate


for _task in TASKS.values():
    _make = _classifier if _task.kind.name == 'classification' else _of_config
    app.command(_task.name, cls=options.KeyValueCommand)(_make(_task))


def _check_places(name: str, checkpoint: str, data: Path) -> None:
    """Check that the weights, if they are named, and the data exist, before seconds of imports."""
    if not data.exists():
        raise UserError(f'{data} does not exist: expected the folder of a data set.')
    if checkpoint and not Path(checkpoint).exists():
        store.find(checkpoint, name)


def _run(job: Job, output: Path, resume: bool, format: str, given: str) -> None:
    """Evaluate, and write and print the result in the first rank, and the options as `given`.

    Raises:
        UserError: if the result cannot be written; the metrics are in its sentence.
    """
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.evaluate.harness import evaluate
    from reproduce.judge.references import check_reference

    files.check_writable(output)
    outcome = evaluate(job, output, resume)
    if outcome is None:
        return
    path, e = outcome.save(output), outcome.evaluation
    files.write_atomically(path.with_suffix('.toml'), given)
    predictions = path.with_name(f'{path.stem}{e.predictions}')
    check = check_reference(e)
    if format == 'json':
        options.print_json(
            {
                **e.model_dump(mode='json'),
                'predictions': str(predictions),
                'written': str(path),
                'reference': check.reference and check.reference.model_dump(),
                'reference_verdicts': check.verdicts,
            }
        )
        return
    print(f'{e.system or e.model}, {extent(e.data.images, e.data.complete, e.data.problems)}')
    options.print_metrics(e.metrics, e.intervals, e.warnings)
    for metric, verdict in check.verdicts.items():
        source = check.reference.source
        print(f'{metric}: reference {check.value(metric):.2f}: {verdict} ({source})')
    done = e.provenance
    print(
        f'{e.precision} on {done.processes} x {done.device}, {done.seconds:.1f} s, '
        f'{(e.data.images - done.resumed) / done.seconds:.1f} images/s'
    )
    print(f'Written: {path}, {predictions}.')
