"""A drawn photograph, for measuring where there are no images."""

from __future__ import annotations

import cv2
import numpy as np

from leandet.preprocess import Image


def photograph_like(height: int = 480, width: int = 640) -> Image:
    """A seeded picture with structure at every scale, as photographs have: uint8 (height, width, 3) RGB."""
    random = np.random.default_rng(0)
    picture = np.zeros((height, width, 3), np.float32)
    cells = 2
    while cells < min(height, width):
        noise = random.standard_normal((cells, cells, 3)).astype(np.float32)
        picture += cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR) / cells**0.5
        cells *= 2
    return np.clip(picture * 50 + 114, 0, 255).astype(np.uint8)
