"""A file's 8-bit self, made in seconds: as fast as the one that is handed over, and not to be trusted with pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from leandet.card import Card
from leandet.data.image import load_image
from leandet.machine import lacks_int8_dot
from leandet.preprocess import letterbox
from leandet.quantize.qdq import Calibration, OnnxQuantizer

ENOUGH = 2  # photographs that ranges are taken from: how long a layer takes does not depend on them


def rounded(photographs: Sequence[Path]) -> Callable[[Path, Card], None]:
    """What quantises a written float32 `.onnx` file in place, every layer, for its latency to be measured.

    Args:
        photographs: some that the detector is for; the first few are read.
    """

    def finish(path: Path, card: Card) -> None:
        pictures = [letterbox(load_image(one), card.spec.size)[0] for one in photographs[:ENOUGH]]
        images = [np.ascontiguousarray(picture.transpose(2, 0, 1)[None]) for picture in pictures]
        draft = path.with_stem(f"{path.stem}-int8")
        own = replace(card, provenance={**card.provenance, "precision": "int8"})
        OnnxQuantizer(path, images, reduce_range=lacks_int8_dot()).write(draft, own, Calibration.MINMAX)
        draft.replace(path)

    return finish
