"""`python -m reproduce evaluate`, `score` and `regress`."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reproduce.errors import UserError

if TYPE_CHECKING:
    from reproduce.evaluate.imagenet import Outcome

EVALUATIONS = Path('results/evaluations')

evaluate_app = typer.Typer(
    help='Measure the accuracy of a model, and keep it as a record.', no_args_is_help=True
)
score_app = typer.Typer(
    help='Score kept predictions again, without the model.', no_args_is_help=True
)


class Format(StrEnum):
    """How the result is printed."""

    TEXT = 'text'
    JSON = 'json'


class Precision(StrEnum):
    """What autocast computes in."""

    FP16 = 'fp16'
    BF16 = 'bf16'


class Device(StrEnum):
    """What computes."""

    CPU = 'cpu'
    CUDA = 'cuda'


Data = Annotated[Path, typer.Option('--data', help='Folder of ImageNet-1K, with val/ in it.')]
Processes = Annotated[
    int,
    typer.Option(
        '--processes',
        help='Processes on this machine, one a GPU; torchrun starts them. Under a torchrun of your '
        'own, as on several nodes, it says how many, and this is ignored.',
    ),
]
Limit = Annotated[
    int | None,
    typer.Option('--limit', help='Only so many images: a subset, never held against the paper.'),
]
BatchSize = Annotated[int, typer.Option('--batch-size', help='Images a batch, in each process.')]
Workers = Annotated[int, typer.Option('--workers', help='Processes that read images, for each.')]
Amp = Annotated[
    Precision | None, typer.Option('--amp', help='Autocast to this.  [default: fp32 throughout]')
]
OutputFormat = Annotated[
    Format,
    typer.Option('--format', help='json prints one JSON object, nothing else, to standard output.'),
]


@evaluate_app.callback()
def _evaluate() -> None:
    """Measure the accuracy of a model, and keep it as a record."""


@score_app.callback()
def _score() -> None:
    """Score kept predictions again, without the model."""


@evaluate_app.command('imagenet')
def evaluate_imagenet(
    model: Annotated[
        str, typer.Argument(help='A system of Tables 1-4, a MAFormer, or any timm model.')
    ],
    checkpoint: Annotated[
        str,
        typer.Option(
            '--checkpoint',
            help='A file, a folder with MODEL.safetensors (or .pth, ...), or a released '
            "checkpoint's name.",
        ),
    ],
    data: Data,
    processes: Processes = 1,
    limit: Limit = None,
    batch_size: BatchSize = 64,
    workers: Workers = 4,
    amp: Amp = None,
    device: Annotated[
        Device | None, typer.Option('--device', help='[default: cuda where there is one]')
    ] = None,
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
    output: Annotated[
        Path, typer.Option('--output', help='Folder for the record and the predictions.')
    ] = EVALUATIONS,
    format: OutputFormat = Format.TEXT,
) -> None:
    """Measure Top-1 and Top-5 on ImageNet-1K's validation images, every image exactly once."""
    from reproduce import files, records
    from reproduce.evaluate.imagenet import Job, evaluate

    files.check_writable(output)
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
        arguments=_arguments(model_kwargs or []),
        limit=limit,
        batch_size=batch_size,
        workers=workers,
        amp=amp and amp.value,
        preprocessing={k: v for k, v in overrides.items() if v is not None},
        device=device and device.value,
    )
    outcome = evaluate(job, processes)
    if outcome is not None:
        path = records.save(outcome.evaluation, outcome.predictions.to_csv(), output)
        _report(outcome, path, format)


@score_app.command('imagenet')
def score_imagenet(
    predictions: Annotated[Path, typer.Argument(help='The .csv.gz (or .csv) of an evaluation.')],
    data: Data,
    limit: Limit = None,
    format: OutputFormat = Format.TEXT,
) -> None:
    """Compute Top-1 and Top-5 of kept predictions from the labels that the data has."""
    from datasets.imagenet import load
    from reproduce.evaluate.predictions import matched, read, score

    stored = read(predictions)
    images = load(data, limit=limit)
    fitting = matched(stored, images, predictions)
    metrics, intervals = score(fitting.labels, fitting.classes)
    told = dict(zip(stored.files, stored.labels.tolist(), strict=True))
    changed = sum(
        told[f] != label for f, label in zip(fitting.files, fitting.labels.tolist(), strict=True)
    )
    if format is Format.JSON:
        result = {
            'metrics': metrics,
            'intervals': intervals,
            'images': len(fitting.files),
            'fingerprint': images.fingerprint,
            'complete': images.complete,
            'problems': images.problems,
            'labels_changed': changed,
        }
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    print(f'{predictions}, {_extent(len(fitting.files), images.complete, images.problems)}')
    _print_metrics(metrics, intervals)
    if changed:
        print(f'{changed:,} labels are not those that the predictions were made with.')


def regress(
    processes: Processes = 1,
    batch_size: BatchSize = 64,
    workers: Workers = 2,
    data: Annotated[
        Path | None,
        typer.Option('--data', help='ImageNet-1K, for references on it; left out without.'),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option('--manifest', help='Another manifest than the released one.')
    ] = None,
    output: Annotated[
        Path | None, typer.Option('--output', help='Folder for the records; kept nowhere without.')
    ] = None,
    format: OutputFormat = Format.TEXT,
) -> None:
    """Evaluate every released checkpoint and hold it against its reference.

    Exits with 1 if one scores less than its reference allows, with 2 if one cannot be evaluated.
    """
    from reproduce.evaluate.regression import check, exit_code, render

    checks = check(processes, batch_size, workers, data, manifest, output)
    code = exit_code(checks)
    if format is Format.JSON:
        result = {'checks': [c.as_dict() for c in checks], 'exit_code': code}
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print(render(checks))
    raise typer.Exit(code)


def _arguments(entries: list[str]) -> dict[str, Any]:
    """Constructor arguments of 'name=value' entries; values are JSON where they can be."""
    arguments = {}
    for entry in entries:
        name, equals, value = entry.partition('=')
        if not equals or not name.isidentifier():
            raise UserError(
                f"--model-kwargs '{entry}' is no argument: expected name=value, such as "
                'token_labeling=true.'
            )
        try:
            arguments[name] = json.loads(value.lower() if value in ('True', 'False') else value)
        except json.JSONDecodeError:
            arguments[name] = value
    return arguments


def _report(outcome: 'Outcome', path: Path, format: Format) -> None:
    from reproduce import checkpoints
    from reproduce.paper import load_tolerances
    from reproduce.verdict import judge_reference

    e = outcome.evaluation
    found = checkpoints.reference(e.checkpoint.sha256, e.data.fingerprint, e.data.complete)
    verdict = judge_reference(
        e.metrics['top1'], found and found.top1, e.data.images, load_tolerances()['reference']
    )
    if format is Format.JSON:
        result = {
            **e.model_dump(mode='json'),
            'predictions': str(path.with_suffix('.csv.gz')),
            'reference': found and found.model_dump(),
            'reference_verdict': verdict,
            'written': str(path),
        }
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return
    print(f'{e.system or e.model}, {_extent(e.data.images, e.data.complete, e.data.problems)}')
    _print_metrics(e.metrics, e.intervals)
    if found is not None:
        print(f'reference {found.top1:.2f}: {verdict} ({found.source})')
    rate = e.data.images / e.provenance.seconds
    print(
        f'{e.precision} on {e.provenance.processes} x {e.provenance.device}, '
        f'{e.provenance.seconds:.1f} s, {rate:.1f} images/s'
    )
    print(f'Written: {path}, {path.with_suffix(".csv.gz")}.')


def _extent(images: int, complete: bool, problems: tuple[str, ...]) -> str:
    if complete:
        return f'the complete {images:,} images'
    return f'a subset of {images:,} images ({"; ".join(problems)})'


def _print_metrics(metrics: dict[str, float], intervals: dict[str, tuple[float, float]]) -> None:
    for name, value in metrics.items():
        low, high = intervals[name]
        print(f'{name}  {value:6.2f} %  (95 %: {low:.2f} to {high:.2f})')
