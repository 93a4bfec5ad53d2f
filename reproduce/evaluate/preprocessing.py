"""What may replace a classifier's own preprocessing."""

import math
from collections.abc import Mapping
from typing import Any

from reproduce.errors import UserError

# Of timm's, those that do not draw one of the others for each image.
INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'box', 'hamming', 'lanczos')


def check_overrides(overrides: Mapping[str, Any]) -> None:
    """Check that the values are ones that an image can be prepared with.

    Raises:
        UserError: naming the option, its value and what was expected.
    """
    interpolation = overrides.get('interpolation')
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        raise UserError(
            f"--interpolation '{interpolation}' is unknown: take {', '.join(INTERPOLATIONS)}."
        )
    for name, positive in (('mean', False), ('std', True)):
        values = overrides.get(name)
        if values is None:
            continue
        given = ' '.join(f'{value:g}' for value in values)
        if any(value > 1 for value in values):
            raise UserError(
                f'--{name} {given} is on the scale of 0 to 255: expected the scale of 0 to 1; '
                'divide by 255.'
            )
        if not all(math.isfinite(v) and (v > 0 if positive else v >= 0) for v in values):
            least = 'above 0' if positive else 'of 0 or more'
            raise UserError(f'--{name} {given} is out of range: expected numbers {least}, up to 1.')
