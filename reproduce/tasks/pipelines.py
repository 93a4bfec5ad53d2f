"""The images of a data set through the test pipeline of an OpenMMLab config."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
from mmengine import fileio
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from torch.utils.data import Dataset

from reproduce.base.errors import UserError
from reproduce.openmmlab import inference
from reproduce.openmmlab.transforms import kind, with_whole_images
from reproduce.tasks import TASKS
from reproduce.tasks.job import Job


def test_steps(config: Config) -> list[dict[str, Any]]:
    """Return the test pipeline of `config` without the annotations, which a model does not see."""
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    steps = [dict(s) for s in dataset.get('pipeline', ()) if kind(s) != 'LoadAnnotations']
    if not steps:
        raise UserError(f'{config.filename} has no test_dataloader.dataset.pipeline: add one.')
    return steps


class PipelineImages(Dataset):
    """What a test pipeline makes of each image, given its info with `img_path`, and its SHA-256."""

    def __init__(
        self, infos: Sequence[Mapping[str, Any]], config: Config, steps: list[dict[str, Any]]
    ) -> None:
        self.infos = infos
        with DefaultScope.overwrite_default_scope(config.default_scope):
            self.transform = Compose(with_whole_images(steps))

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> tuple[Any, str]:
        try:
            image = self.transform(dict(self.infos[index]))
        except (cv2.error, ValueError) as error:  # no pixels, or too few to be mirrored
            raise UserError(
                f'the image {self.infos[index]["img_path"]} does not fit the test pipeline '
                f'({str(error).splitlines()[0]}): leave it out.'
            ) from error
        return image, hashlib.sha256(fileio.get(self.infos[index]['img_path'])).hexdigest()


def describe(
    job: Job, system: str | None, name: str, config: Config, steps: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what `Prepared.described` is for a model of an OpenMMLab config."""
    # Padding changes what is predicted, so it is not the system's number.
    padded = ['batch_size'] if TASKS[job.task].kind.padded_batches and job.batch_size > 1 else []
    return {
        'system': system,
        'model': name,
        'arguments': dict(job.arguments),
        'preprocessing': inference.described(config, steps),
        'overridden': (*sorted(job.arguments), *padded),
    }
