"""The dynamic prototype guided head (DPG): class prototypes of first logits gate the features (eq. 5-7, Fig. 4)."""

from __future__ import annotations

from torch import Tensor, nn

from .reconstruction import ConvNorm, init_classifier


class SpatialGather(nn.Module):
    """Eq. 5: one prototype per class, the mean of the features weighted by that class's softmax over the pixels.

    Shape: features [B, D, h, w], logits [B, K, h, w] -> prototypes [B, D, K, 1].
    """

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        share = logits.flatten(2).softmax(dim=2)  # B K h·w, sums to 1 over the pixels
        prototypes = share @ features.flatten(2).transpose(1, 2)  # B K D
        return prototypes.transpose(1, 2).unsqueeze(3)


class PrototypeGate(nn.Module):
    """Eq. 6-7: a weighted sum of the prototypes becomes one gate per channel.

    Shape: features [B, D, h, w], prototypes [B, D, K, 1] -> features ∘ gate [B, D, h, w], the gate in 0 … 1.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv_mask = nn.Conv2d(channels, 1, 1)  # wᵀ·prototype + b
        self.channel_mul_conv = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.LayerNorm([channels, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1),
        )
        nn.init.kaiming_normal_(self.conv_mask.weight, mode="fan_in", nonlinearity="relu")
        for parameter in self.channel_mul_conv[-1].parameters():
            nn.init.zeros_(parameter)  # the gate starts at 0.5

    def class_embedding(self, prototypes: Tensor) -> Tensor:
        """prototypes [B, D, K, 1] -> a weight per class [B, K], sum 1 (eq. 6)."""
        weights: Tensor = self.conv_mask(prototypes).flatten(1).softmax(dim=1)
        return weights

    def forward(self, features: Tensor, prototypes: Tensor) -> Tensor:
        weights = self.class_embedding(prototypes)  # B K
        scene = prototypes[..., 0] @ weights.unsqueeze(2)  # B D 1
        gate: Tensor = self.channel_mul_conv(scene.unsqueeze(3))  # B D 1 1
        return features * gate.sigmoid()


class DynamicPrototypeGuidedHead(nn.Module):
    """DPG: logits = cls(x ∘ gate + x), where the gate is computed from the prototypes of cls(ReLU(BN(scale(x)))).

    Args:
        channels: D of the features.
        num_classes: K.
        dropout: share of channels dropped before each of the two uses of the classifier, during training.

    Shape: [B, D, h, w] -> [B, K, h, w].
    """

    def __init__(self, *, channels: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.linear_fuse = nn.Sequential(ConvNorm(channels, channels, groups=channels), nn.ReLU(inplace=True))
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.gather = SpatialGather()
        self.gate = PrototypeGate(channels=channels)
        init_classifier(self.classifier)

    def classify(self, features: Tensor) -> Tensor:
        """Dropout, then 1×1: [B, D, h, w] -> [B, K, h, w]."""
        logits: Tensor = self.classifier(self.dropout(features))
        return logits

    def forward(self, features: Tensor) -> Tensor:
        first_logits = self.classify(self.linear_fuse(features))  # not supervised
        prototypes = self.gather(features, first_logits)  # B D K 1
        return self.classify(features + self.gate(features, prototypes))
