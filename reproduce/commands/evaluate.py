"""Measure the accuracy of a model, and keep it as a record."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option

from reproduce.base import files
from reproduce.base.folders import EVALUATIONS
from reproduce.base.job_options import KEY_VALUES, with_fields_of
from reproduce.base.processes import start_again
from reproduce.base.wording import extent
from reproduce.commands import options
from reproduce.evaluate.records import in_one_line
from reproduce.tasks import TASKS, Task
from reproduce.tasks.job import Job

if TYPE_CHECKING:
    from reproduce.evaluate.harness import Outcome

# The fields of a job that are options for every task.
COMMON = (
    *('checkpoint', 'data', 'limit', 'batch_size', 'workers', 'amp', 'device'),
    'deterministic',
)
_PREPROCESSING = ('img_size', 'crop_pct', 'crop_mode', 'interpolation', 'mean', 'std')

app = typer.Typer(**options.SETTINGS, help=__doc__, no_args_is_help=True)

Output = Annotated[Path, Option(help='Folder for the record and the predictions.')]
Config = Annotated[
    str,
    Option(
        help='A file, one of reproduce/configs, mmdet::... or mmseg::... for one that the package '
        "ships, or a system's name."
    ),
]
ConfigOptions = Annotated[
    list[str] | None,
    Option(
        metavar=KEY_VALUES,
        help="Values in place of the config's, such as model.test_cfg.rcnn.score_thr=0.01.",
    ),
]


def _classifier(task: Task) -> Callable[..., None]:
    @with_fields_of(Job, *COMMON, 'compiled')
    def evaluate(
        model: Annotated[
            str, Argument(help='A system of Tables 1-4, a MAFormer, or any timm model.')
        ],
        img_size: Annotated[int | None, Option(help='Pixels a side.')] = None,
        crop_pct: Annotated[
            float | None, Option(help="The centre crop's side over the image's short side.")
        ] = None,
        crop_mode: Annotated[
            Literal['center', 'squash', 'border'] | None,
            Option(
                help='center cuts the square out, squash resizes the whole image to it, border '
                'pads it.'
            ),
        ] = None,
        # Of timm's, those that do not draw one of the others for each image.
        interpolation: Annotated[
            Literal['nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos'] | None,
            Option(help='Of the resizing.'),
        ] = None,
        mean: Annotated[
            tuple[float, float, float] | None,
            Option(help='Of red, green and blue, on the scale of 0 to 1.'),
        ] = None,
        std: Annotated[
            tuple[float, float, float] | None, Option(help='Likewise, the standard deviation.')
        ] = None,
        use_train_size: Annotated[
            bool,
            Option(
                '--use-train-size',
                help="Take timm's size and crop of the training, where it has others for testing.",
            ),
        ] = False,
        model_kwargs: Annotated[
            list[str] | None,
            Option(metavar=KEY_VALUES, help='Constructor arguments, such as token_labeling=True.'),
        ] = None,
        processes: options.Processes = 1,
        output: Output = EVALUATIONS,
        format: options.Format = 'text',
        **given: Any,
    ) -> None:
        values = (img_size, crop_pct, crop_mode, interpolation, mean, std)
        replaced = zip(_PREPROCESSING, values, strict=True)
        given['preprocessing'] = {name: value for name, value in replaced if value is not None}
        if use_train_size:
            given['preprocessing']['use_train_size'] = True
        _run(task.name, model, ('--model-kwargs', model_kwargs), given, processes, output, format)

    evaluate.__doc__ = f"""Measure Top-1 and Top-5 on {task.images_name}.

    Images are prepared as timm's own validation does it for the model: its config says size, crop,
    interpolation, mean and standard deviation, those for testing where it has such. Weights of
    `train imagenet` say the size and the crop that they were trained for. The options of
    preprocessing replace single values; the record keeps all of them, and which were replaced.
    """
    return evaluate


def _of_config(task: Task) -> Callable[..., None]:
    @with_fields_of(Job, *COMMON, *task.kind.options)
    def evaluate(
        config: Config,
        cfg_options: ConfigOptions = None,
        processes: options.Processes = 1,
        output: Output = EVALUATIONS,
        format: options.Format = 'text',
        **given: Any,
    ) -> None:
        _run(task.name, config, ('--cfg-options', cfg_options), given, processes, output, format)

    measured = {'detection': 'box and mask AP and AR', 'segmentation': 'mIoU'}[task.kind.name]
    evaluate.__doc__ = f'Measure {measured} on {task.images_name}.'
    return evaluate


for _task in TASKS.values():
    _make = _classifier if _task.kind.name == 'classification' else _of_config
    app.command(_task.name, cls=options.KeyValueCommand)(_make(_task))


def _run(
    task: str,
    model: str,
    arguments: tuple[str, list[str] | None],
    given: dict[str, Any],
    processes: int,
    output: Path,
    format: str,
) -> None:
    """Evaluate, and report in the first rank.

    Args:
        arguments: the option for constructor arguments or changes of the config, and its entries.
        given: further fields of the `Job`.
    """
    start_again(processes)
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.evaluate.harness import evaluate
    from reproduce.openmmlab.cfg_options import parse

    option, entries = arguments
    job = Job(task, model, arguments=parse(entries or [], option), **given)
    files.check_writable(output)
    outcome = evaluate(job)
    if outcome is not None:
        _save_and_report(outcome, output, format)


def _save_and_report(outcome: 'Outcome', output: Path, format: str) -> None:
    """Write what was measured, and print it.

    Raises:
        UserError: if it cannot be written; the metrics are in its sentence.
    """
    # Imported here, so that `--help` does not wait for the register of weights.
    from reproduce.judge.references import check_reference

    e = outcome.evaluation
    if format == 'text':
        print(f'{e.system or e.model}, {extent(e.data.images, e.data.complete, e.data.problems)}')
        options.print_metrics(e.metrics, e.intervals, e.warnings)
        if e.from_weights:
            stated = {**e.preprocessing, 'img_size': e.preprocessing['input_size'][-1]}
            listed = ', '.join(f'{name} {stated[name]}' for name in e.from_weights)
            print(f'{listed}: what the weights were trained with, by their file')
        sys.stdout.flush()
    else:
        print(f'measured: {in_one_line(e.metrics)}', file=sys.stderr, flush=True)
    path = outcome.save(output)
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
    for metric, verdict in check.verdicts.items():
        source = check.reference.source
        print(f'{metric}: reference {check.value(metric):.2f}: {verdict} ({source})')
    done = e.provenance
    print(
        f'{e.precision} on {done.processes} x {done.device}, {done.seconds:.1f} s, '
        f'{e.data.images / done.seconds:.1f} images/s'
    )
    print(f'Written: {path}, {predictions}.')
