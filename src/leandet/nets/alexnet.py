"""AlexNet, the yardstick: One weird trick for parallelizing convolutional neural networks (arXiv 1404.5997).

This is the one-tower form that torchvision has; tensor names are torchvision's.
"""

from __future__ import annotations

from torch import Tensor, nn

from leandet.nets.backbone import Classifier, Step
from leandet.nets.blocks import initialise


class AlexNet(Classifier):
    """Five convolutions and three linear layers; its smallest input is 63 pixels a side."""

    taps = ("features.4", "features.11", "features.12")

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5),
            nn.Linear(256 * 6 * 6, 4096),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, num_classes),
        )
        initialise(self)

    def steps(self) -> list[Step]:
        """Every module of `features`."""
        return [Step(f"features.{name}", module) for name, module in self.features.named_children()]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, num_classes)."""
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits
