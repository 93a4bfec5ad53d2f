"""Where a network's time goes, against what the machine can do: `make benchmark-roofline`.

Every operator of a forward pass, or of a training step, is timed by the CPU time of one thread, and
its multiply-adds and the bytes that it reads and writes are counted. It could take no less than the
larger of its multiply-adds over the rate of a product of large matrices, and its bytes over the
rate of a copy that stays in the cache; both rates are measured in the same run. How much of that
bound a kind of operator reaches says whether there is anything to gain in it.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
import typer
from tabulate import tabulate
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from benchmarks.speed import passes
from benchmarks.subjects import Subject, named
from benchmarks.timing import matrix_product, timed

aten = torch.ops.aten

FORWARD = aten._scaled_dot_product_flash_attention_for_cpu
BACKWARD = aten._scaled_dot_product_flash_attention_for_cpu_backward

# Of a training too: backward passes, and AdamW's steps.
KINDS = {
    'linear layers': ('addmm', 'mm', 'linear'),
    'products in attention': (FORWARD.__name__, BACKWARD.__name__),
    'other products': ('bmm', 'baddbmm'),
    'convolutions': ('convolution', 'mkldnn_convolution', 'convolution_backward'),
    'GELU': ('gelu', 'gelu_', 'gelu_backward'),
    'softmax': ('_softmax', '_softmax_backward_data'),
    'norms': (
        *('native_layer_norm', 'native_layer_norm_backward'),
        *('native_batch_norm', 'native_batch_norm_backward'),
        '_native_batch_norm_legit_no_training',
    ),
    'copies': (
        *('copy_', 'clone', 'cat', '_to_copy', 'constant_pad_nd', 'index', 'roll', 'stack'),
        *('select_backward', 'slice_backward', 'new_zeros', 'zeros', 'fill_', 'zero_'),
    ),
    'additions': ('add', 'add_', 'mul', 'sub', 'div', 'sum', 'bernoulli_', 'div_'),
    'AdamW': ('mul_', 'lerp_', 'addcmul_', 'sqrt', 'addcdiv_'),
}
KIND_OF = {name: kind for kind, names in KINDS.items() for name in names}
COPIED = 2**20  # elements of the tensor whose copy shows the rate of the cache: 4 MiB

DEFAULT = ('maformer_small_3383', 'cswin_tiny', 'swin_tiny_patch4_window7_224')


@dataclass
class OperatorTotals:
    """Sums over the operators of a kind, of one pass."""

    seconds: float = 0.0
    multiply_adds: int = 0
    transferred: int = 0  # bytes
    bound: float = 0.0  # seconds


class OperatorTimes(TorchDispatchMode):
    """Times and counts every operator that computes something.

    Args:
        peak: multiply-adds a second.
        bandwidth: bytes a second.
    """

    def __init__(self, peak: float, bandwidth: float) -> None:
        super().__init__()
        self.peak, self.bandwidth = peak, bandwidth
        self.kinds: dict[str, OperatorTotals] = defaultdict(OperatorTotals)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        begin = time.thread_time()
        result = func(*args, **kwargs)
        seconds = time.thread_time() - begin
        if func.is_view or func.overloadpacket in (aten.empty, aten.detach):
            return result
        name = func.overloadpacket.__name__
        multiply_adds = _multiply_adds(func.overloadpacket, args, kwargs, result)
        transferred = sum(
            t.numel() * t.element_size()
            for t in (*tree_leaves((args, kwargs)), *tree_leaves(result))
            if isinstance(t, torch.Tensor)
        )
        spent = self.kinds[KIND_OF.get(name, 'others')]
        spent.seconds += seconds
        spent.multiply_adds += multiply_adds
        spent.transferred += transferred
        spent.bound += max(multiply_adds / self.peak, transferred / self.bandwidth)
        return result


def _multiply_adds(packet: Any, args: tuple, kwargs: dict, result: Any) -> int:
    if packet is FORWARD:
        return sdpa_flop_count(*(tensor.shape for tensor in args[:3])) // 2
    if packet is BACKWARD:
        return sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4])) // 2
    if packet is aten.mkldnn_convolution:
        return result.numel() // result.shape[1] * args[1].numel()
    if packet is aten.convolution_backward:  # whose groups torch's own count leaves out
        grad, weight, of_input_and_weight = args[0], args[2], args[-1][:2]
        return grad.numel() // grad.shape[1] * weight.numel() * sum(of_input_and_weight)
    if packet not in flop_registry:
        return 0
    return flop_registry[packet](*args, **kwargs, out_val=result) // 2


def peaks(rounds: int = 10) -> tuple[float, float]:
    """Return the multiply-adds/s of large matrices and the bytes/s of a copy in the cache."""
    product, multiply_adds = matrix_product(torch.device('cpu'), torch.float32)
    source = torch.randn(COPIED)
    target = torch.empty_like(source)
    copies = 20  # of one measurement, which is too short otherwise
    seconds = _thread_seconds(product, rounds)
    copied = _thread_seconds(lambda: [target.copy_(source) for _ in range(copies)], rounds)
    return multiply_adds / seconds, copies * 2 * source.nbytes / copied


def _thread_seconds(work: Callable[[], object], rounds: int) -> float:
    work()
    taken = []
    for _ in range(rounds):
        begin = time.thread_time()
        work()
        taken.append(time.thread_time() - begin)
    return timed(taken).seconds


def operator_times(
    subject: Subject, train: bool, batch_size: int, rounds: int, peak: float, bandwidth: float
) -> dict[str, OperatorTotals]:
    """Return what the kinds of operators take of the pass that is the fastest of `rounds`."""
    if train:
        work = passes(subject, batch_size, train=True, amp=None, compiled=False, device='cpu')
    else:
        network = subject.build('cpu')
        work = partial(subject.forward, network, torch.randn(batch_size, 3, *subject.size))
    best: dict[str, OperatorTotals] = {}
    # An inference mode would hide what the operators are made of.
    with torch.set_grad_enabled(train):
        work()
        for _ in range(rounds):
            with OperatorTimes(peak, bandwidth) as found:
                work()
            if not best or _seconds(found.kinds) < _seconds(best):
                best = dict(found.kinds)
    return best


def _seconds(kinds: dict[str, OperatorTotals]) -> float:
    return sum(spent.seconds for spent in kinds.values())


def main(
    models: Annotated[list[str] | None, typer.Argument(help='timm models or systems.')] = None,
    train: Annotated[
        bool, typer.Option('--train', help='A training step, not a forward pass.')
    ] = False,
    batch_size: Annotated[int, typer.Option(help='Images a batch.')] = 4,
    rounds: Annotated[int, typer.Option(help='Passes; the fastest counts.')] = 3,
) -> None:
    """Compare the time of each kind of operator with the machine's limits, on one CPU thread."""
    torch.set_num_threads(1)
    peak, bandwidth = peaks()
    print(f'peak {peak / 1e9:.1f} G multiply-adds/s, {bandwidth / 1e9:.1f} GB/s in the cache')
    for name in models or DEFAULT:
        kinds = operator_times(named(name), train, batch_size, rounds, peak, bandwidth)
        total = _seconds(kinds)
        rows = [
            [
                *(kind, one.seconds / batch_size * 1e3, one.seconds / total),
                *(one.multiply_adds / batch_size / 1e9, one.transferred / batch_size / 2**20),
                *(one.bound / batch_size * 1e3, one.bound / one.seconds if one.seconds else 0),
            ]
            for kind, one in sorted(kinds.items(), key=lambda item: -item[1].seconds)
        ]
        bound = sum(one.bound for one in kinds.values())
        sums = [
            *('all', total / batch_size * 1e3, 1.0),
            *(sum(row[3] for row in rows), sum(row[4] for row in rows)),
            *(bound / batch_size * 1e3, bound / total),
        ]
        heads = ['', 'ms', 'share', 'G', 'MiB', 'bound, ms', 'of the bound']
        print(f'\n{name}, for each image, batch {batch_size}, torch {torch.__version__}')
        formats = ('', '.1f', '.1%', '.3f', '.0f', '.1f', '.0%')
        print(tabulate([*rows, sums], heads, 'simple', floatfmt=formats))


if __name__ == '__main__':
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(main)
    app()
