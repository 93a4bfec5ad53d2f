"""Label maps by a segmenter, such as a system of the tables, or any config of mmseg.

Images of a batch are read together and segmented one after the other: they differ in size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.config import Config
from mmseg.structures import SegDataSample

from datasets.segmented import SegmentationData
from reproduce.base.errors import UserError, first_line
from reproduce.base.quiet import quiet_libraries
from reproduce.openmmlab import inference
from reproduce.openmmlab.archive_backend import location
from reproduce.openmmlab.data_paths import check_classes
from reproduce.openmmlab.transforms import kind
from reproduce.tasks import TASKS
from reproduce.tasks.job import Job, Prepared, check_finite
from reproduce.tasks.pipelines import PipelineImages, describe, test_steps
from reproduce.tasks.scores import Scorer
from reproduce.tasks.segmentation_scores import class_pixels_of, score, to_png, to_zip
from reproduce.weights import store

with quiet_libraries():  # it prints
    import mmseg.datasets  # noqa: F401  (registers the steps of pipelines)

# Times the size of the one scale, which comes first; each also mirrored.
RATIOS = (1.0, 0.5, 0.75, 1.25, 1.5, 1.75)


def prepare(job: Job, device: torch.device) -> Prepared:
    """See `Task.prepare`."""
    system, name, config = inference.resolve(job.model, job.arguments, job.task)
    path = store.find(job.checkpoint, inference.checkpoint_name(system, name))
    steps = pipeline(config, job.multi_scale)
    data = TASKS[job.task].load_data(job.data, limit=job.limit)
    check_classes(config, data)
    segmenter = inference.build(config, path)
    if segmenter.out_channels != len(data.classes):
        raise UserError(
            f'{name} gives {segmenter.out_channels} scores a pixel for the {len(data.classes)} '
            f'classes of {data.root}: expected one for each.'
        )
    test_step = inference.tester(segmenter, config, device)

    infos = [{'img_path': location(image)} for image, _ in data.samples]
    label_maps = [label_map for _, label_map in data.samples]

    def predict(indices: Sequence[int], batch: list[dict[str, Any]]) -> list[tuple[list, list]]:
        found = []
        for index, views in zip(indices, batch, strict=True):
            of_image = (views[key] for key in ('inputs', 'data_samples'))
            several = (v if isinstance(v, list) else [v] for v in of_image)
            maps = segment(test_step, *several).cpu().numpy()
            pixels = class_pixels_of(label_maps[index], maps, len(data.classes), data.format)
            found.append((pixels, [to_png(labels, data.format) for labels in maps]))
        return found

    return Prepared(
        described=describe(job, system, name, config, steps),
        checkpoint=path,
        data=data,
        images=PipelineImages(infos, config, steps),
        collate=list,
        predict=predict,
        scorer=Scorer(
            '.zip',
            lambda found: score([pixels for pixels, _ in found], data.classes),
            lambda found: to_zip([pngs for _, pngs in found], [path.name for path in label_maps]),
        ),
    )


def point_dataset(dataset: Any, data: SegmentationData) -> None:
    """See `Task.point_dataset`."""
    form, name = data.format, data.format.splits[data.split]
    dataset.type = 'BaseSegDataset'  # mmseg's other data sets have class names of their own
    dataset.metainfo = {'classes': tuple(data.classes)}  # mmseg draws a palette
    dataset.data_root = ''  # both paths are absolute, and one in an archive does not look so
    dataset.data_prefix = {
        'img_path': location(data.root / form.images.format(name)),
        'seg_map_path': location(data.root / form.labels.format(name)),
    }
    dataset.img_suffix, dataset.seg_map_suffix = form.image_suffix, form.label_suffix
    dataset.reduce_zero_label = form.first_label == 1


def pipeline(config: Config, multi_scale: bool) -> list[dict[str, Any]]:
    """Return the test pipeline of `config` without labels: these are read at their own size.

    Its Resize, in ADE20K's configs the shorter side to 512 and the longer to at most 2048, makes
    the one scale. With `multi_scale` there are 12 views: both limits times each of RATIOS, as it is
    and mirrored, as in the papers. The `tta_pipeline` of mmseg's configs is another protocol: it
    scales the original image, whatever its size.
    """
    steps = test_steps(config)
    if not multi_scale:
        return steps
    place = next((i for i, step in enumerate(steps) if kind(step) == 'Resize'), None)
    scale = None if place is None else steps[place].get('scale')
    if not isinstance(scale, list | tuple):
        raise UserError(
            f'the test pipeline of {config.filename} has no Resize with a scale of two sides: '
            'evaluate it without --multi-scale.'
        )
    views = [
        [{**steps[place], 'scale': tuple(int(side * ratio) for side in scale)} for ratio in RATIOS],
        [{'type': 'RandomFlip', 'prob': p, 'direction': 'horizontal'} for p in (0.0, 1.0)],
        *([step] for step in steps[place + 1 :]),
    ]
    return [*steps[:place], {'type': 'TestTimeAug', 'transforms': views}]


def segment(
    test_step: inference.Tester, views: Sequence[torch.Tensor], samples: Sequence[SegDataSample]
) -> torch.Tensor:
    """Return the label maps of an image in several views: by the first, and by the mean of all.

    mmseg's SegTTAModel gives that mean. It holds the scores of all views at once, several GB for
    twelve views of 150 classes, and averages in the precision of the model.

    Args:
        test_step: of a segmenter of K classes.
        views, samples: what its pipeline makes of the image.

    Returns:
        (P, H, W) in uint8, where 1 is the first class: P is 1 for one view and 2 for several.
    """
    found, logits = _one(test_step, views[0], samples[0])
    if len(views) > 1:
        total = logits.softmax(0)
        for view, sample in zip(views[1:], samples[1:], strict=True):
            total += _one(test_step, view, sample)[1].softmax(0)
        found = torch.cat([found, total.argmax(0, keepdim=True)])
    return (found + 1).to(torch.uint8)  # there are fewer than 256 classes


def _one(
    test_step: inference.Tester, view: torch.Tensor, sample: SegDataSample
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the classes (1, H, W) of a view, and its logits (K, H, W) in fp32."""
    try:
        found = test_step({'inputs': [view], 'data_samples': [sample]})[0]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a foreign model raises
        reason = first_line(error)
        raise UserError(
            f'the segmenter cannot predict {sample.img_path} at {view.shape[2]} x {view.shape[1]} '
            f'pixels ({reason}); leave the image out, or correct model.test_cfg of the config.'
        ) from error
    logits = found.seg_logits.data.float()
    check_finite(logits, sample.img_path)
    return found.pred_sem_seg.data, logits
