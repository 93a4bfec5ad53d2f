"""Measure the accuracy of a model, and keep it as a record."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel
from typer import Argument, Option

from reproduce.base import files
from reproduce.base.folders import EVALUATIONS
from reproduce.base.job_options import ConfigOptions, with_fields_of
from reproduce.base.processes import start_again
from reproduce.base.wording import extent
from reproduce.commands import options
from reproduce.tasks import TASKS, Task
from reproduce.tasks.job import Job

app = typer.Typer(**options.SETTINGS, help=__doc__, no_args_is_help=True)

Output = Annotated[Path, Option(help='Folder for the record and the predictions.')]


class Preprocessing(BaseModel, extra='forbid'):
    """What replaces a classifier's own preprocessing; the interpolations are timm's fixed ones."""

    img_size: int | None = None
    crop_pct: float | None = None
    crop_mode: Literal['center', 'squash', 'border'] | None = None
    interpolation: Literal['nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos'] | None = (
        None
    )
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    use_train_size: Literal[True] | None = None


def _classifier(task: Task) -> Callable[..., None]:
    @with_fields_of(Job, without=['multi_scale'])
    def evaluate(
        model: Annotated[
            str, Argument(help='A system of Tables 1-4, a MAFormer, or any timm model.')
        ],
        preprocessing: Annotated[
            list[str] | None,
            Option(
                metavar='KEY=VALUE',
                help="In place of the model's own: img_size=288, crop_pct=1.0 (the crop's side "
                "over the image's short side), crop_mode=center (cuts a square), squash or border "
                '(resize the whole image), interpolation=bicubic, mean=0.5,0.5,0.5, std=..., '
                "use_train_size=True (timm's size and crop of the training). Repeat for more.",
            ),
        ] = None,
        model_kwargs: Annotated[
            list[str] | None,
            Option(
                metavar='KEY=VALUE',
                help='A constructor argument, such as token_labeling=True. Repeat for more.',
            ),
        ] = None,
        processes: options.Processes = 1,
        output: Output = EVALUATIONS,
        format: options.Format = 'text',
        **given: Any,
    ) -> None:
        start_again(processes)
        # Imported here, so that `--help` does not wait for torch.
        from reproduce.openmmlab.cfg_options import parse

        with files.naming_file('--preprocessing'):
            values = parse(preprocessing or [], '--preprocessing')
            replaced = Preprocessing.model_validate(values)
        given['preprocessing'] = replaced.model_dump(exclude_none=True)
        arguments = parse(model_kwargs or [], '--model-kwargs')
        _run(Job(task.name, model, arguments=arguments, **given), output, format)

    evaluate.__doc__ = f"""Measure Top-1 and Top-5 on {task.validation_set}.

    Images are prepared as timm's own validation does it for the model: its config says size, crop,
    interpolation, mean and standard deviation, those for testing where it has such. Weights of
    `train imagenet` say the size and the crop that they were trained for. The record keeps all of
    these, and which were replaced.
    """
    return evaluate


def _of_config(task: Task) -> Callable[..., None]:
    @with_fields_of(Job, without={'multi_scale'} - {*task.kind.options})
    def evaluate(
        config: Annotated[
            str,
            Option(
                help='A file, one of reproduce/configs, mmdet::... or mmseg::... for one that the '
                "package ships, or a system's name."
            ),
        ],
        cfg_options: ConfigOptions = None,
        processes: options.Processes = 1,
        output: Output = EVALUATIONS,
        format: options.Format = 'text',
        **given: Any,
    ) -> None:
        start_again(processes)
        from reproduce.openmmlab.cfg_options import parse  # as in `_classifier`

        _run(Job(task.name, config, arguments=parse(cfg_options or []), **given), output, format)

    measured = {'detection': 'box and mask AP and AR', 'segmentation': 'mIoU'}[task.kind.name]
    evaluate.__doc__ = f'Measure {measured} on {task.validation_set}.'
    return evaluate


for _task in TASKS.values():
    _make = _classifier if _task.kind.name == 'classification' else _of_config
    app.command(_task.name)(_make(_task))


def _run(job: Job, output: Path, format: str) -> None:
    """Evaluate, and write and print the result in the first rank.

    Raises:
        UserError: if the result cannot be written; the metrics are in its sentence.
    """
    # Imported here, so that `--help` does not wait for torch.
    from reproduce.evaluate.harness import evaluate
    from reproduce.judge.references import check_reference

    files.check_writable(output)
    outcome = evaluate(job)
    if outcome is None:
        return
    path, e = outcome.save(output), outcome.evaluation
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
        f'{e.data.images / done.seconds:.1f} images/s'
    )
    print(f'Written: {path}, {predictions}.')
