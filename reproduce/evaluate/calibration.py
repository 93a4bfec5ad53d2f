"""How fast this machine is: a second of forward passes tells."""

import timm
import torch
from torch.utils.benchmark import Timer

from reproduce.complexity.forward_pass import forwarded
from reproduce.evaluate import records
from reproduce.evaluate.accuracies import Request
from reproduce.evaluate.devices import Devices
from reproduce.tasks.job import PRECISIONS

# Whose speed stands for that of every system on this machine, and the images of a batch of it.
CALIBRATION = 'maformer_small_3383'
_BATCH = {'cpu': 4, 'cuda': 64}


def calibrated(request: Request) -> Devices:
    """This machine: its GPUs, one a process, or its processor; a second of CALIBRATION tells."""
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    batch, config = _BATCH[device.type], timm.get_pretrained_cfg(CALIBRATION)
    classifier = timm.create_model(CALIBRATION).eval().to(device)
    images = torch.zeros(batch, *config.input_size, device=device)

    def forward() -> None:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, PRECISIONS.get(request.amp), enabled=bool(request.amp)),
        ):
            classifier(images)

    timer = Timer('forward()', globals={'forward': forward}, num_threads=torch.get_num_threads())
    seconds = timer.blocked_autorange(min_run_time=1.0).median
    _, flops, _ = forwarded(
        classifier, lambda m: m(torch.empty(1, *config.input_size, device='meta'))
    )
    return Devices(
        name=records.device_name(device),
        # Processes on a CPU share its cores.
        count=request.processes if device.type == 'cuda' else 1,
        rate=flops * batch / seconds,
        basis=f'measured with {CALIBRATION} in {request.amp or "fp32"}',
    )
