"""The auxiliary head of token labeling (Jiang et al., 2021), which classifies every token."""

import torch
import torch.nn as nn


class TokenLabeling(nn.Module):
    """Mixin of timm's networks: a linear classifier of every token, `aux_head`.

    With `add_token_max` half of the maximum of the token logits over the tokens is added to the
    logits in evaluation mode, as LV-ViT's released code does.
    """

    def add_auxiliary_head(self, token_labeling: bool, add_token_max: bool) -> None:
        """Add the head, if `token_labeling`."""
        self.token_labeling = token_labeling
        self.add_token_max = add_token_max
        self._make_auxiliary_head()

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the heads by new ones; without `global_pool` the pooling stays."""
        super().reset_classifier(num_classes, global_pool)
        self._make_auxiliary_head()

    def _make_auxiliary_head(self) -> None:
        self.aux_head = None
        if self.token_labeling and self.num_classes:
            like = next(self.parameters())
            self.aux_head = nn.Linear(
                self.num_features, self.num_classes, device=like.device, dtype=like.dtype
            )

    def combine(
        self, logits: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return the output of the network from its logits (B, K) and its tokens (B, H, W, C).

        That is in training mode `logits` and the token logits (B, H, W, K), otherwise logits alone.
        Logits of tokens that were not pooled have more dimensions, and stay as they are.
        """
        if self.aux_head is not None and self.training:
            return logits, self.aux_head(tokens)
        if self.aux_head is None or not self.add_token_max or logits.ndim > 2:
            return logits
        return logits + 0.5 * self.aux_head(tokens).amax((1, 2))
