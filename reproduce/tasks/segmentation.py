"""mIoU of a segmenter, such as a system of Table 7, or any config of mmseg.

Images of a batch are read together and segmented one after the other: they differ in size.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DefaultScope
from mmseg.structures import SegDataSample
from torch.utils.data import Dataset

from reproduce.base.errors import UserError
from reproduce.base.quiet import quiet_libraries
from reproduce.openmmlab import inference
from reproduce.openmmlab.archive_backend import location
from reproduce.openmmlab.data_paths import check_classes
from reproduce.openmmlab.transforms import kind, with_whole_images
from reproduce.tasks import TASKS
from reproduce.tasks.job import Job, Prepared
from reproduce.tasks.segmentation_scores import LabelMapScorer, LabelMapsFile
from reproduce.weights import store

with quiet_libraries():  # it prints, and registers the steps of pipelines
    from mmseg.datasets import ADE20KDataset

# A side in pixels below which a convolution may be larger than the image.
_SMALL = 32

# Times the size of the one scale, which comes first; each also mirrored.
RATIOS = (1.0, 0.5, 0.75, 1.25, 1.5, 1.75)


def prepare(job: Job, device: torch.device) -> Prepared:
    """Find and check what the job needs, and build its segmenter on `device`.

    Raises:
        UserError: if the checkpoint, the data or an option is not what it should be.
    """
    system, name, config = inference.resolve(job.model, job.arguments, job.task)
    path = store.find(job.checkpoint, inference.checkpoint_name(system, name))
    _check_windows(config)
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

    def predict(indices: Sequence[int], batch: Mapping[str, list[list[Any]]]) -> list[np.ndarray]:
        # In the batch is a list for each view, with one item for each image.
        views, samples = (zip(*batch[key], strict=True) for key in ('inputs', 'data_samples'))
        found = [segment(test_step, *image) for image in zip(views, samples, strict=True)]
        return [maps.cpu().numpy() for maps in found]

    label_maps = [label_map for _, label_map in data.samples]
    return Prepared(
        described={
            'system': system,
            'model': name,
            'arguments': dict(job.arguments),
            'preprocessing': inference.described(config, steps),
            'overridden': tuple(sorted(job.arguments)),
        },
        checkpoint=path,
        data=data,
        images=_Images(data, config, steps),
        collate=pseudo_collate,
        predict=predict,
        scorer=LabelMapScorer(label_maps, data.classes, data.format, job.multi_scale),
        file=LabelMapsFile([path.name for path in label_maps], data.format),
    )


def _check_windows(config: Config) -> None:
    """Check how the segmenter goes over an image: whole, or in windows without gaps.

    Raises:
        UserError: if it is neither.
    """
    settings = config.model.get('test_cfg') or {}
    if settings.get('mode', 'whole') == 'whole':
        return
    pairs = [settings.get(name) for name in ('stride', 'crop_size')]
    sizes = [pair for pair in pairs if isinstance(pair, list | tuple) and len(pair) == 2]
    if (
        settings.mode != 'slide'
        or len(sizes) < 2
        or not all(0 < step <= size for step, size in zip(*sizes, strict=True))
    ):
        raise UserError(
            f"model.test_cfg of {config.filename} is {dict(settings)}: expected the mode 'whole', "
            "or 'slide' with a crop_size in pixels, as (512, 512), and a stride of at most that."
        )


def point_dataset(dataset: Any, data: Any) -> None:
    """Let a dataset of a config of mmseg read `data`, and call its classes by name."""
    name = data.format.splits[data.split]
    dataset.data_root = ''  # both paths are absolute, and one in an archive does not look so
    dataset.data_prefix = {
        'img_path': location(data.root / data.format.images.format(name)),
        'seg_map_path': location(data.root / data.format.labels.format(name)),
    }
    of_ade20k = tuple(data.classes) == tuple(ADE20KDataset.METAINFO['classes'])
    if not of_ade20k or kind(dataset) != 'ADE20KDataset':
        # ADE20KDataset takes no other class names.
        dataset.type = 'BaseSegDataset'
        dataset.metainfo = {'classes': tuple(data.classes)}  # mmseg draws a palette
        dataset.img_suffix = data.format.image_suffix
        dataset.seg_map_suffix = data.format.label_suffix
        dataset.reduce_zero_label = data.format.first_label == 1


def pipeline(config: Config, multi_scale: bool) -> list[dict[str, Any]]:
    """Return the test pipeline of `config` without labels: these are read at their own size.

    Its Resize, in ADE20K's configs the shorter side to 512 and the longer to at most 2048, makes
    the one scale. With `multi_scale` there are 12 views: both limits times each of RATIOS, as it is
    and mirrored, as in the papers. The `tta_pipeline` of mmseg's configs is another protocol: it
    scales the original image, whatever its size.

    Raises:
        UserError: if there is no such pipeline, or it has no Resize to scale.
    """
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    steps = [dict(s) for s in dataset.get('pipeline', ()) if kind(s) != 'LoadAnnotations']
    if not steps:
        raise UserError(
            f'{config.filename} has no test_dataloader.dataset.pipeline: expected the steps from a '
            'file to the input of the model.'
        )
    if not multi_scale:
        return steps
    place = next((i for i, step in enumerate(steps) if kind(step) == 'Resize'), None)
    scale = None if place is None else steps[place].get('scale')
    if not isinstance(scale, list | tuple):
        raise UserError(
            f'the test pipeline of {config.filename} has no Resize with a scale of two sides: '
            'expected one, to multiply for several scales; evaluate it without --multi-scale.'
        )
    views = [
        [{**steps[place], 'scale': tuple(int(side * ratio) for side in scale)} for ratio in RATIOS],
        [{'type': 'RandomFlip', 'prob': p, 'direction': 'horizontal'} for p in (0.0, 1.0)],
        *([step] for step in steps[place + 1 :]),
    ]
    return [*steps[:place], {'type': 'TestTimeAug', 'transforms': views}]


class _Images(Dataset):
    """The images, each as lists with its views: `inputs` (3, H, W) and `data_samples`."""

    def __init__(self, data: Any, config: Config, steps: list[dict[str, Any]]) -> None:
        self.files = [location(image) for image, _ in data.samples]
        with DefaultScope.overwrite_default_scope(config.default_scope):
            self.transform = Compose(with_whole_images(steps))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, list[Any]]:
        try:
            views = self.transform({'img_path': self.files[index]})
        except (cv2.error, ValueError) as error:  # no pixels, or too few to be mirrored
            raise UserError(
                f'the image {self.files[index]} cannot be brought to the size that the test '
                f'pipeline says ({str(error).splitlines()[0]}); evaluate it without --multi-scale, '
                'or leave it out.'
            ) from error
        return {k: v if isinstance(v, list) else [v] for k, v in views.items()}


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

    Raises:
        UserError: if the segmenter gives a score that is not finite.
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
    except RuntimeError as error:
        if min(view.shape[1:]) >= _SMALL:
            raise
        raise UserError(
            f'the segmenter cannot read {sample.img_path} at {view.shape[2]} x {view.shape[1]} '
            f'pixels ({str(error).splitlines()[0]}); evaluate it without --multi-scale, or leave '
            'it out.'
        ) from error
    logits = found.seg_logits.data.float()
    if not torch.isfinite(logits).all():
        raise UserError(
            f'the model gives NaN or infinity for {sample.img_path}: its weights are not sound, or '
            '--amp overflows.'
        )
    return found.pred_sem_seg.data, logits
