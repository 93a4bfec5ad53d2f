"""Names of timm's models, as users give them, and what follows from a name."""

from typing import Any

import timm

from reproduce.base.errors import UserError


def check(name: str) -> None:
    """Check that timm has the model `name`, under this very name, with the tag that it may have.

    Raises:
        UserError: if not.
    """
    architecture, _, tag = name.partition('.')
    # A former name is not listed: timm builds it under its new name, with a warning only.
    if architecture not in timm.list_models():
        raise UserError(f"there is no model '{name}': expected one of timm.list_models().")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        known = [n.partition('.')[2] for n in timm.list_pretrained(f'{architecture}.*')]
        listed = ', '.join(known) or 'none'
        raise UserError(f"timm's {architecture} has no weights '{tag}'; it has {listed}.") from None


def pretrained(name: str) -> str:
    """Return where timm's weights of the model `name` are, in timm's words: hf-hub:REPOSITORY.

    Raises:
        UserError: if they are not on the Hugging Face Hub.
    """
    config = timm.get_pretrained_cfg(name)
    if not config.hf_hub_id:
        where = f'are at {config.url}' if config.url else 'are unknown to timm'
        raise UserError(f'the weights of {name} {where}: name a file of them with --checkpoint.')
    return f'hf-hub:{config.hf_hub_id}'


def size_argument(name: str, img_size: int | tuple[int, int] | None) -> dict[str, Any]:
    """Return the constructor argument of the size, where the model takes images of one size only.

    Args:
        name: a timm model.
        img_size: the side of its images in pixels, or both; None for the model's own.
    """
    config = timm.get_pretrained_cfg(name)
    fixed = img_size is not None and config is not None and config.fixed_input_size
    return {'img_size': img_size} if fixed else {}
