"""Whether released weights score less than their reference by more than chance."""

from pathlib import Path

from reproduce.base.errors import UserError
from reproduce.judge.verdict import Verdict
from reproduce.statistics import kept
from reproduce.statistics.paired import Difference, paired
from reproduce.weights.registry import Reference

# A reference may have two decimals only; the counts behind it give all.
_ROUNDING = 0.005 + 1e-9


def of_reference(reference: Reference, measured: bytes, manifest: Path) -> dict[str, Difference]:
    """Return the difference from the reference of each of its metrics, tested image by image.

    Args:
        measured: what was counted on each image now, as `KeptImages.to_bytes` gives it.
        manifest: the file that the reference is from; its counts lie below that file's folder.

    Raises:
        UserError: if the kept counts cannot be read, or are not of the reference and these images.
    """
    path = manifest.parent / reference.statistics
    then, now = kept.read(path), kept.from_bytes(measured, 'this evaluation')
    if then.images != now.images or type(then.statistics) is not type(now.statistics):
        raise UserError(
            f'{path} is of other images than this evaluation: accept the reference again.'
        )
    values = then.statistics.of_all_images()
    for name, value in reference.metrics.items():
        if abs(values.get(name, float('inf')) - value) > _ROUNDING:
            raise UserError(
                f'{path} gives {name} {values.get(name)}, and the reference says {value}: accept '
                'the reference again.'
            )
    found = paired(then.statistics, now.statistics)
    return {d.metric: d for d in found.metrics if d.metric in reference.metrics}


def verdict(difference: Difference) -> Verdict:
    """Return `match` where the difference may be chance, and `better` or `worse` otherwise."""
    if not difference.significant:
        return Verdict.MATCH
    return Verdict.BETTER if difference.difference > 0 else Verdict.WORSE


def sentence(difference: Difference) -> str:
    """Return what the test found, as a phrase."""
    if difference.difference == 0:
        return 'as the reference'
    what = f'{difference.difference:+.2f}, p {difference.p:.3f}'
    if difference.significant:
        return f'{what}: significant'
    warning = 'WARNING: ' if difference.difference < 0 else ''
    return f'{warning}{what}: not significant'
