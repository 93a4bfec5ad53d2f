"""The auxiliary head of token labeling (Jiang et al., 2021), which classifies every token."""

import warnings
from collections.abc import Mapping

import torch
import torch.nn as nn


class AuxiliaryHead(nn.Linear):
    """Linear classifier of every token, in addition to the head that classifies the image."""

    def combine(
        self, logits: torch.Tensor, tokens: torch.Tensor, training: bool, add_token_max: bool
    ) -> torch.Tensor:  # TorchScript has evaluation mode only
        """Return the output of a network from its class logits and its tokens.

        Args:
            logits: (B, K), or of a higher rank where the tokens were not pooled; such logits belong
                to single tokens already, and nothing is added to them.
            tokens: (B, H, W, C).
            training: whether the network is in training mode.
            add_token_max: whether to add half of the maximum of the token logits over the tokens in
                evaluation mode, as LV-ViT's released code does.

        Returns:
            in training mode `logits` and the token logits (B, H, W, K), otherwise logits alone.
        """
        if training and not torch.jit.is_scripting():
            return logits, self(tokens)
        if not add_token_max or logits.ndim > 2:
            return logits
        return logits + 0.5 * self.forward(tokens).amax((1, 2))


def fit_auxiliary_head(
    state: Mapping[str, torch.Tensor], model: nn.Module
) -> dict[str, torch.Tensor]:
    """Return the parameters without an auxiliary head that the model does not take.

    A model without token labeling has none, which a warning says, since the published accuracy of
    such weights is with it. One for other classes keeps its own, as it does the head of the image.
    """
    names = ('aux_head.weight', 'aux_head.bias')
    head = getattr(model, 'aux_head', None)
    if names[0] not in state or (head and head.weight.shape == state[names[0]].shape):
        return dict(state)
    if head is None and getattr(model, 'num_classes', 0):
        warnings.warn(
            'the weights have an auxiliary head of token labeling, which is left out: the model '
            'was created without token_labeling=True',
            stacklevel=2,
        )
    return {name: value for name, value in state.items() if name not in names}
