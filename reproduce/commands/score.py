"""Score kept predictions again, without the model."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer import Argument, Option

from reproduce.base.job_options import Limit
from reproduce.base.terminal import TextTable
from reproduce.base.wording import extent
from reproduce.commands import options
from reproduce.tasks import TASKS, Task

# What scores is imported in each command, so that `--help` does not wait for it.

_MOST_CLASSES = 200  # of more classes, those with the lowest values are printed as text

app = typer.Typer(**options.SETTINGS, help=__doc__, no_args_is_help=True)


def _classes(task: Task) -> Callable[..., None]:
    def score(
        predictions: Annotated[Path, Argument(help='The .csv.gz (or .csv) of an evaluation.')],
        data: options.Data,
        limit: Limit = None,
        format: options.Format = 'text',
    ) -> None:
        """Compute Top-1, Top-5 and the calibration error of kept predictions.

        Also Top-1 of each class, and which classes are confused. The labels are those of the data.
        """
        from reproduce.tasks.classification_scores import most_confused

        images = task.load_data(data, limit=limit)
        scores = task.score_file(predictions, images)
        facts = {'images': len(images.samples), 'fingerprint': images.fingerprint}
        facts |= {'most_confused': most_confused(predictions, images)}
        _report(predictions, scores, facts, images.problems, format)
        if format == 'text':
            rows = [[*classes, str(n)] for *classes, n in facts['most_confused']]
            options.show(format, {}, '', TextTable(['class', 'confused with', 'images'], rows))

    return score


def _detections(task: Task) -> Callable[..., None]:
    def score(
        results: Annotated[
            Path, Argument(help="Detections in COCO's result format, .json or .json.gz.")
        ],
        annotations: Annotated[Path, Option(help='An instances file, as instances_val2017.json.')],
        limit: Limit = None,
        format: options.Format = 'text',
    ) -> None:
        """Compute COCO's twelve numbers of kept detections, and what each kind of error costs.

        By pycocotools, with the six kinds of error of TIDE. Every image of the annotations counts,
        also one without detections.
        """
        from datasets.coco_annotations import lacks, read
        from reproduce.statistics.detection_metrics import ERROR_RESAMPLES, MatchedDetections
        from reproduce.tasks import detection_scores as scoring

        whole = read(annotations)
        truth = whole.take(limit)
        found = scoring.checked(scoring.read(results), whole, results)
        looked_at = {image['id'] for image in truth.images}
        detections = sum(result['image_id'] in looked_at for result in found)
        facts = {'images': len(truth.images), 'fingerprint': truth.fingerprint}
        scores = scoring.score(found, truth)
        cost = cast(MatchedDetections, scores.statistics).errors
        errors, intervals = cost.metrics(), cost.intervals(ERROR_RESAMPLES)
        facts |= {'detections': detections, 'errors': errors, 'error_intervals': intervals}
        _report(results, scores, facts, lacks(truth), format)
        if format == 'text':
            print('\nAP50 lost to each kind of error:')
            options.print_metrics(errors, intervals)

    return score


def _label_maps(task: Task) -> Callable[..., None]:
    def score(
        predictions: Annotated[
            Path,
            Argument(
                help='A folder of PNGs in the form of the annotations, or the .zip of an '
                'evaluation.'
            ),
        ],
        annotations: Annotated[
            Path, Option(help='Folder of label maps, as annotations/validation.')
        ],
        limit: Limit = None,
        format: options.Format = 'text',
    ) -> None:
        """Compute mIoU, mAcc and aAcc of kept label maps.

        They have the form of the data set's own label maps.
        """
        from reproduce.tasks.segmentation_scores import score_folder

        form = import_module(f'datasets.{task.name}').FORMAT
        scores, images, problems = score_folder(predictions, annotations.absolute(), limit, form)
        _report(predictions, scores, {'images': images}, problems, format)

    return score


_COMMANDS = {'classification': _classes, 'detection': _detections, 'segmentation': _label_maps}
for _task in TASKS.values():
    app.command(_task.name)(_COMMANDS[_task.kind.name](_task))


def _report(
    predictions: Path, scores: Any, facts: dict[str, Any], problems: Sequence[str], format: str
) -> None:
    """Print the `Scores` of a file of predictions; `facts` are further fields of the JSON."""
    facts = {'warnings': scores.warnings, 'complete': not problems, 'problems': problems, **facts}
    if format == 'text':
        print(f'{predictions}, {extent(facts["images"], not problems, problems)}')
        few = scores.per_class
        if len(few) > _MOST_CLASSES:
            few = dict(sorted(few.items(), key=lambda item: min(item[1].values()))[:20])
        options.print_metrics(scores.metrics, scores.intervals, facts['warnings'], few)
        return
    per_class = {'per_class': scores.per_class} if scores.per_class else {}
    measured = {'metrics': scores.metrics, 'intervals': scores.intervals, **per_class}
    options.print_json({**measured, **facts})
