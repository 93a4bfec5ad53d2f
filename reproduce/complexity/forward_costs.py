"""What the forward passes of an evaluation take, which `results/forward_costs.csv` keeps."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import Field

from reproduce.base.folders import FORWARD_COSTS
from reproduce.base.worker_pool import in_processes
from reproduce.complexity.counts import CODE, definition
from reproduce.complexity.kept_results import KeptLine, code_key, kept_or_computed
from reproduce.evaluate.accuracies import Inputs, Request
from reproduce.systems import System
from reproduce.tasks import TASKS


class ForwardCost(KeptLine):
    """What one image takes.

    Attributes:
        height, width: in pixels; of the commonest images where they differ.
        params: the network's.
        flops: multiply-adds of an image in all its views, those in attention included.
        intermediates: the most bytes at a time in fp32 of what operators make for a batch.
    """

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    params: int = Field(ge=0)
    flops: int = Field(ge=0)
    intermediates: int = Field(ge=0)


def forward_costs(
    wanted: Collection[Inputs], request: Request, path: Path = FORWARD_COSTS
) -> dict[str, ForwardCost | str]:
    """Return what an image takes of every system that is to be evaluated, or why that is unknown.

    Those that `path` keeps are read from it, the others are found on the `meta` device.

    Raises:
        UserError: if a package or a config file that a system needs is missing.
    """
    systems = {one.system.name: one.system for one in wanted}
    options = {one.system.name: _options(one, request) for one in wanted}

    def compute(names: list[str]) -> dict:
        chosen = {name: (systems[name], *options[name]) for name in names}
        return in_processes(_forward_cost, chosen, 'trying forward passes')

    return kept_or_computed(
        path,
        ForwardCost,
        code_key((*CODE, 'reproduce/evaluate', 'reproduce/tasks')),
        {name: [definition(systems[name]), *options[name]] for name in systems},
        compute,
    )


def _options(inputs: Inputs, request: Request) -> tuple[int, bool, dict[str, Any]]:
    """Return the images of a batch, whether there are several scales, and what the weights say."""
    system, trained = inputs.system, {}
    if inputs.checkpoint is not None and system.model is not None:
        # Imported here: only they bring torch.
        from reproduce.weights import parameters

        trained = parameters.trained_preprocessing(inputs.checkpoint)
    batch_size = request.batch_size or TASKS[system.task].batch_size
    return batch_size, 'ms_miou' in system.accuracies, trained


def _forward_cost(
    system: System, batch_size: int, multi_scale: bool, trained: dict[str, Any]
) -> dict[str, int]:
    from reproduce.evaluate import forward_pass  # here, as in `_options`

    if system.model is not None:
        return forward_pass.of_classifier(system, batch_size, trained)
    return forward_pass.of_openmmlab(system, batch_size, multi_scale)
