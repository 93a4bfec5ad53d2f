"""What would compute: GPUs by name, or this machine, and how fast they are taken to be."""

import re
from dataclasses import dataclass

from reproduce.base.errors import UserError
from reproduce.evaluate.accuracies import Request

# The makers' dense peaks, in 1e12 floating-point operations a second: fp32 outside the tensor
# cores, as the evaluation computes it, and in them with sums in fp32.
PEAKS: dict[str, dict[str, float]] = {
    'V100': {'fp32': 15.7, 'fp16': 125.0},
    'T4': {'fp32': 8.1, 'fp16': 65.0},
    'A100': {'fp32': 19.5, 'fp16': 312.0, 'bf16': 312.0},
    'H100': {'fp32': 66.9, 'fp16': 989.4, 'bf16': 989.4},
    'RTX3090': {'fp32': 35.6, 'fp16': 71.0, 'bf16': 71.0},
    'RTX4090': {'fp32': 82.6, 'fp16': 165.2, 'bf16': 165.2},
}
# The part of a peak that such networks are assumed to reach; not measured here. In fp32 the Swin
# paper's images/s of DeiT and Swin on a V100 come to 0.4 to 0.6.
EFFICIENCY = {'fp32': 0.5, 'fp16': 0.2, 'bf16': 0.2}


@dataclass(frozen=True)
class Devices:
    """What would compute: `count` of them, each with `rate` multiply-adds a second."""

    name: str
    count: int
    rate: float
    basis: str


def named(device: str, request: Request) -> Devices:
    """Return the GPUs that `device` names; without a number, one for each process.

    Raises:
        UserError: if they are unknown or do not compute in the precision.
    """
    found = re.fullmatch(r'(?:(\d+) *[x×] *)?(.+)', device.strip(), re.IGNORECASE)
    name = found[2].upper().replace(' ', '') if found else ''
    if name not in PEAKS or found[1] == '0':
        raise UserError(
            f"the device '{device}' is unknown: name one of {', '.join(PEAKS)}, or several as in "
            '8xV100.'
        )
    precision = request.amp or 'fp32'
    if precision not in PEAKS[name]:
        raise UserError(f'the {name} has no {precision}: take --amp fp16, or fp32 throughout.')
    peak, part = PEAKS[name][precision], EFFICIENCY[precision]
    return Devices(
        name=name,
        count=int(found[1] or request.processes),
        rate=peak * 1e12 / 2 * part,  # a multiply-add is two operations
        basis=f'{part:.0%} of its published {peak:g} Tflop/s in {precision}, an assumption',
    )
