"""`python -m reproduce score`: kept predictions, scored without the model."""

from pathlib import Path
from typing import Annotated

import typer

from datasets import coco as coco_data
from reproduce.base.wording import extent
from reproduce.commands import options
from reproduce.commands.options import (
    SETTINGS,
    OutputFormat,
    print_classes,
    print_json,
    print_metrics,
    print_warnings,
)
from reproduce.tasks import detection_scores as coco_scores
from reproduce.tasks import segmentation_scores as ade20k_scores

app = typer.Typer(
    **SETTINGS,
    cls=options.CommandGroup,
    help='Score kept predictions again, without the model.',
    no_args_is_help=True,
)


@app.command('imagenet')
def imagenet(
    predictions: Annotated[Path, typer.Argument(help='The .csv.gz (or .csv) of an evaluation.')],
    data: options.Data,
    limit: options.Limit = None,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Compute Top-1 and Top-5 of kept predictions from the labels that the data has."""
    # Imported here, so that the other tasks do not wait for pandas and timm.
    from datasets.imagenet import load
    from reproduce.tasks.classification_scores import TOP, matched, read, score_matched

    stored = read(predictions)
    images = load(data, limit=limit)
    fitting = matched(stored, images, predictions)
    ranks, most = fitting.classes.shape[1], min(TOP, len(images.classes))
    scores = score_matched(fitting, len(images.classes))
    warnings = (*images.notes, *scores.warnings)
    before = dict(zip(stored.files, stored.labels.tolist(), strict=True))
    now = dict(zip(fitting.files, fitting.labels.tolist(), strict=True))
    changed = sum(before[file] != label for file, label in now.items())
    if format is OutputFormat.JSON:
        result = {
            'metrics': scores.metrics,
            'intervals': scores.intervals,
            'warnings': warnings,
            'images': len(fitting.files),
            'fingerprint': images.fingerprint,
            'complete': images.complete,
            'problems': images.problems,
            'labels_changed': changed,
        }
        print_json(result)
        return
    print(f'{predictions}, {extent(len(fitting.files), images.complete, images.problems)}')
    print_metrics(scores.metrics, scores.intervals)
    print_warnings(warnings)
    if ranks < most:
        print(f'No Top-5: it takes the {most} best classes of an image, and the file has {ranks}.')
    if changed:
        print(f'{changed:,} labels are not those that the predictions were made with.')


@app.command('coco')
def coco(
    results: Annotated[
        Path, typer.Argument(help="Detections in COCO's result format, .json or .json.gz.")
    ],
    annotations: Annotated[
        Path, typer.Option(help='An instances file, as instances_val2017.json.')
    ],
    fast: Annotated[
        bool,
        typer.Option(
            '--fast', help='By hotcoco: the same numbers in a fraction of the time, no record.'
        ),
    ] = False,
    limit: options.Limit = None,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Compute COCO's twelve numbers of kept detections by pycocotools, and the AP of each class.

    Every image of the annotations counts, also one without detections.
    """
    whole = coco_data.read(annotations)
    truth = whole.take(limit)
    found = coco_scores.checked(coco_scores.read(results), whole, results)
    of_images = coco_scores.of_images(found, truth)
    scores = coco_scores.score_images(of_images, truth, fast)
    problems = coco_data.lacks(truth)
    if format is OutputFormat.JSON:
        result = {
            'metrics': scores.metrics,
            'intervals': scores.intervals,
            'per_class': scores.per_class,
            'warnings': scores.warnings,
            'images': len(truth.images),
            'detections': sum(map(len, of_images)),
            'fingerprint': truth.fingerprint,
            'complete': not problems,
            'problems': problems,
            'scorer': 'hotcoco' if fast else 'pycocotools',
        }
        print_json(result)
        return
    print(f'{results}, {extent(len(truth.images), not problems, problems)}')
    print_metrics(scores.metrics, scores.intervals)
    print_warnings(scores.warnings)
    print_classes(scores.per_class)


@app.command('ade20k')
def ade20k(
    predictions: Annotated[
        Path,
        typer.Argument(
            help='A folder of PNGs in the form of the annotations, or the .zip of an evaluation.'
        ),
    ],
    annotations: Annotated[
        Path, typer.Option(help='Folder of label maps, as annotations/validation.')
    ],
    limit: options.Limit = None,
    format: options.Format = OutputFormat.TEXT,
) -> None:
    """Compute mIoU, mAcc and aAcc of kept label maps, and the IoU of each class.

    In a label map 0 is ignored and 1 the first class.
    """
    scored = ade20k_scores.score_folder(predictions, annotations, limit)
    if format is OutputFormat.JSON:
        result = {
            'metrics': scored.metrics,
            'intervals': scored.intervals,
            'per_class': scored.per_class,
            'warnings': scored.warnings,
            'images': scored.images,
            'complete': not scored.problems,
            'problems': scored.problems,
        }
        print_json(result)
        return
    print(f'{predictions}, {extent(scored.images, not scored.problems, scored.problems)}')
    print_metrics(scored.metrics, scored.intervals)
    print_warnings(scored.warnings)
    print_classes(scored.per_class)
