"""mIoU of a segmenter on ADE20K, at one scale and at several."""

import contextlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.utils.data import Dataset

from datasets.ade20k import ADE20K, load, read_label_map
from reproduce.distributed import Group
from reproduce.errors import UserError
from reproduce.evaluate import harness
from reproduce.evaluate.harness import Measured, Prepared
from reproduce.openmmlab import inference
from reproduce.openmmlab.data_paths import check_classes
from reproduce.openmmlab.transforms import kind, with_whole_images
from reproduce.score.ade20k import MULTI_SCALE, confusion, score_both, to_png, to_zip
from reproduce.weights import store

# Times the size of the one scale, which comes first; each also mirrored.
RATIOS = (1.0, 0.5, 0.75, 1.25, 1.5, 1.75)


@dataclass(frozen=True)
class Job(harness.Job):
    """A segmenter: a system of Table 7, or any config of mmseg's.

    Images of a batch are read together and segmented one after the other: they differ in size.

    Attributes:
        multi_scale: average over RATIOS and mirror images, too.
    """

    task: ClassVar[str] = 'ade20k'

    multi_scale: bool = False

    def prepare(self) -> Prepared:
        system, name, config = inference.resolve(self.model, self.arguments, self.task)
        path = store.find(self.checkpoint, inference.checkpoint_name(system, name))
        steps = pipeline(config, self.multi_scale)
        data = load(self.data, limit=self.limit)
        check_classes(config, data)
        segmenter = inference.build(config, path)
        if segmenter.out_channels != len(data.classes):
            raise UserError(
                f'{name} gives {segmenter.out_channels} scores a pixel for the '
                f'{len(data.classes)} classes of {data.root}: expected one for each.'
            )
        return Prepared(
            system=system,
            model=name,
            arguments=dict(self.arguments),
            checkpoint=path,
            data=data,
            preprocessing=inference.described(config, steps),
            measure=partial(measure, segmenter, data, config, steps, self),
            overridden=tuple(sorted(self.arguments)),
        )


def pipeline(config: Config, multi_scale: bool) -> list[dict[str, Any]]:
    """The test pipeline of `config` without labels: these are read at their own size.

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


def measure(
    segmenter: nn.Module,
    data: ADE20K,
    config: Config,
    steps: list[dict[str, Any]],
    job: Job,
    group: Group,
) -> Measured | None:
    """mIoU, mAcc and aAcc and the predictions, in the first process of `group`.

    Raises:
        UserError: if an image cannot be read, the model gives no number, or the memory does not
            hold a batch; in all processes.
    """
    classes = len(data.classes)
    scales = 1 + job.multi_scale
    total = np.zeros((scales, classes, classes + 1), np.int64)

    def keep(index: int, prediction: SegDataSample) -> list[bytes]:
        label = read_label_map(data.samples[index][1], classes)
        # Class i is label i + 1; there are fewer than 256.
        maps = (prediction.pred_sem_seg.data + 1).to(torch.uint8).cpu().numpy()
        for scale, labels in enumerate(maps):
            total[scale] += confusion(labels, label, classes)
        return [to_png(labels) for labels in maps]

    images = _Images(data, config, steps)
    kept = inference.predict(_Views(segmenter), images, keep, config, group, job)
    total = group.add(torch.from_numpy(total).to(group.device)).numpy()
    if kept is None:
        return None
    metrics, per_class = score_both(total[0], total[1] if job.multi_scale else None, data.classes)
    names = [label_map.name for _, label_map in data.samples]
    files = {
        f'{folder}{name}': pngs[scale]
        for scale, folder in enumerate(['', f'{MULTI_SCALE}/'][:scales])
        for name, pngs in zip(names, kept, strict=True)
    }
    return Measured(metrics, to_zip(files), '.zip', per_class=per_class)


class _Images(Dataset):
    """Each image in its views: `inputs` (3, H, W) and `data_samples`, lists with one of each."""

    def __init__(self, data: ADE20K, config: Config, steps: list[dict[str, Any]]) -> None:
        self.files = [str(image) for image, _ in data.samples]
        with (
            contextlib.redirect_stdout(io.StringIO()),  # mmseg prints where it imports
            DefaultScope.overwrite_default_scope(config.default_scope),
        ):
            import mmseg.datasets  # noqa: F401  (registers the steps)

            self.transform = Compose(with_whole_images(steps))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, list[Any]]:
        views = self.transform({'img_path': self.files[index]})
        return {k: v if isinstance(v, list) else [v] for k, v in views.items()}


class _Views(nn.Module):
    """A segmenter of images in several views: by the first, and by the mean of all of them.

    mmseg's SegTTAModel gives that mean. It holds the scores of all views at once, several GB for
    twelve views of 150 classes, and averages in the precision of the model.
    """

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    def test_step(self, batch: Mapping[str, list[list[Any]]]) -> list[SegDataSample]:
        """Samples of which `pred_sem_seg` (P, H, W) has the classes: P is 1, or 2 with the mean's.

        Args:
            batch: `inputs` and `data_samples`, a list for each view with one for each image.
        """
        views, samples = (zip(*batch[key], strict=True) for key in ('inputs', 'data_samples'))
        return [self._segment(*image) for image in zip(views, samples, strict=True)]

    def _segment(
        self, views: tuple[torch.Tensor, ...], samples: tuple[SegDataSample, ...]
    ) -> SegDataSample:
        found, logits = self._one(views[0], samples[0])
        if len(views) > 1:
            total = logits.softmax(0)
            for view, sample in zip(views[1:], samples[1:], strict=True):
                total += self._one(view, sample)[1].softmax(0)
            found = torch.cat([found, total.argmax(0, keepdim=True)])
        return SegDataSample(pred_sem_seg=PixelData(data=found))

    def _one(self, view: torch.Tensor, sample: SegDataSample) -> tuple[torch.Tensor, torch.Tensor]:
        """The classes (1, H, W) of a view, and its logits (K, H, W) in fp32."""
        found = self.segmenter.test_step({'inputs': [view], 'data_samples': [sample]})[0]
        logits = found.seg_logits.data.float()
        if not torch.isfinite(logits).all():
            raise UserError(
                f'the model gives NaN or infinity for {sample.img_path}: its weights are not '
                'sound, or --amp overflows.'
            )
        return found.pred_sem_seg.data, logits
