"""What the speed benchmark measures: a network, the images it takes, and the FLOPs of a pass."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn as nn

import model as _maformer  # noqa: F401  (registers MAFormer with timm)
from reproduce.base import timm_names
from reproduce.base.errors import UserError
from reproduce.complexity.flops import measure
from reproduce.openmmlab import configs, models
from reproduce.systems import System, load_systems
from reproduce.systems.selection import rows_and_systems


@dataclass(frozen=True)
class Subject:
    """A network and the pass that is measured.

    Attributes:
        name: a system of the tables, a timm model or a config, by which it is found again.
        size: height and width of the images in pixels.
        system: how it is built.
        forward: of the network and images (B, 3, H, W). A detector's and a segmenter's is the one
            whose FLOPs are published, so cropping RoIs, NMS and pasting masks are left out.
    """

    name: str
    size: tuple[int, int]
    system: System
    forward: Callable[[nn.Module, torch.Tensor], Any]

    @property
    def is_classifier(self) -> bool:
        return self.system.model is not None

    def build(self, device: torch.device | str) -> nn.Module:
        """Return the network in evaluation mode, with random weights."""
        if self.is_classifier:
            with torch.device(device):
                return self._created(self.size)
        return models.build(configs.load_config(self.system.config), device)

    def pyramid(self, size: tuple[int, int]) -> nn.Module:
        """Return a classifier's maps of all stages, as a detector takes them."""
        return self._created(size, features_only=True)

    def _created(self, size: tuple[int, int], **arguments: Any) -> nn.Module:
        # Some check the size of their input, unless it is given.
        fixed = timm_names.size_argument(self.system.model, size[0])
        arguments |= {'img_size': size} if fixed else {}
        return timm.create_model(self.system.model, **{**self.system.arguments, **arguments}).eval()

    def flops(self) -> int:
        """Return the multiply-adds of the pass of one image, those of attention included."""
        counted = measure(
            self.build('meta'),
            lambda network: self.forward(network, torch.empty(1, 3, *self.size, device='meta')),
        )
        return counted.total_flops


def named(name: str, size: tuple[int, int] | None = None) -> Subject:
    """Return what `name` stands for: a system of the tables, a config, or a timm model.

    Args:
        size: height and width of the images; None for what its FLOPs are counted at.

    Raises:
        UserError: if there is no such system, config or model, or a system is cited only.
    """
    systems = {system.name: system for system in load_systems()}
    if name in systems:
        return _of_system(systems[name], size)
    if '::' in name or name.endswith('.py'):
        return _of_system(System(name=name, rows=[], config=name, flops='total'), size)
    timm_names.check(name, tuple(systems))
    return _of_system(System(name=name, rows=[], model=name), size)


def of_table(table: int, size: tuple[int, int] | None = None) -> list[Subject]:
    """Return the systems of `table` that are built here.

    Raises:
        UserError: if the paper has no such table.
    """
    _, systems = rows_and_systems([table])
    return [_of_system(system, size) for system in systems if system.cited is None]


def _of_system(system: System, size: tuple[int, int] | None) -> Subject:
    if system.cited is not None:
        raise UserError(f'{system.name} cannot be measured, only cited: {system.cited}.')
    if system.model is not None:
        side = system.input_size
        return Subject(
            system.name, size or (side, side), system, lambda network, images: network(images)
        )
    config = configs.load_config(system.config)
    forward = models.published_forward(config)
    return Subject(system.name, size or models.published_size(config), system, forward)


def baseline(subjects: Collection[Subject], wanted: str | None) -> str:
    """Return the name of the subject that the others are compared with: Swin-T's, or the first.

    Raises:
        UserError: if `wanted` is none of them.
    """
    names = [subject.name for subject in subjects]
    if wanted is None:
        return next((n for n in names if 'swin_tiny' in n or '_swin-t' in n), names[0])
    if wanted not in names:
        raise UserError(f"--baseline '{wanted}' is not measured: name one of {', '.join(names)}.")
    return wanted
