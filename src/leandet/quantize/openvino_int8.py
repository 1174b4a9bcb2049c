"""INT8 for OpenVINO, by NNCF: the same layers, calibration images and exceptions as for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from leandet.card import Card
from leandet.export.formats import read_onnx_with_openvino, save_openvino, silenced
from leandet.quantize.qdq import Calibration, Images
from leandet.runtime.onnx import INPUT

CONVOLUTIONS = ("Convolution", "GroupConvolution")
BIASED = "/WithoutBiases"  # OpenVINO splits an ONNX convolution into this and an addition
OUTLIERS = 1e-4  # the share of the values left outside the range at each end


class OpenVinoQuantizer:
    """Writes 8-bit versions of one exported ONNX detector as OpenVINO folders.

    Args:
        model: the float32 `.onnx` file of `leandet export`.
        images: calibration images, each uint8 (1, 3, H, W) RGB letterboxed.
        layers: names of the ONNX nodes of each layer.
    """

    def __init__(self, model: Path, images: Images, layers: Mapping[str, frozenset[str]]) -> None:
        self._content = model.read_bytes()
        self._images, self._layers = images, layers

    def write(self, path: Path, card: Card, calibration: Calibration, keep: Iterable[str] = ()) -> None:
        """Write the 8-bit model and its card as a new folder.

        Args:
            path: of the folder.
            card: stored with it.
            calibration: the range of an activation: all that was seen, or without the outermost values.
            keep: layers left in float32.
        """
        with silenced():
            import nncf

            model = read_onnx_with_openvino(self._content)
            kept = {node for layer in keep for node in self._layers[layer]}
            quantized = nncf.quantize(
                model,
                nncf.Dataset(list(self._images), _feed),
                preset=nncf.QuantizationPreset.MIXED,  # unsigned activations where they are not negative
                subset_size=len(self._images),
                ignored_scope=nncf.IgnoredScope(names=_ignored(model, kept), validate=False),
                advanced_parameters=_ranges(calibration),
            )
        save_openvino(quantized, card, path)


def _feed(image: Any) -> dict[str, Any]:
    return {INPUT: image}


def _ranges(calibration: Calibration) -> Any:
    """NNCF's words for how ranges follow from what was seen."""
    import nncf
    from nncf.quantization import range_estimator as ranges

    parameters = nncf.AdvancedQuantizationParameters()
    kind = ranges.StatisticsType
    low, high, outliers = kind.MIN, kind.MAX, 0.0
    if calibration is Calibration.PERCENTILE:
        low, high, outliers = kind.QUANTILE, kind.QUANTILE, OUTLIERS
    parameters.activations_range_estimator_params = ranges.RangeEstimatorParameters(
        min=ranges.StatisticsCollectorParameters(low, ranges.AggregatorType.MIN, quantile_outlier_prob=outliers),
        max=ranges.StatisticsCollectorParameters(high, ranges.AggregatorType.MAX, quantile_outlier_prob=outliers),
    )
    return parameters


def _ignored(model: Any, kept: set[str]) -> list[str]:
    """Names of the operations that stay float32: the kept convolutions, and all that no convolution depends on."""
    operations = model.get_ordered_ops()
    waiting = [operation for operation in operations if operation.get_type_name() in CONVOLUTIONS]
    before: set[str] = set()
    while waiting:
        operation = waiting.pop()
        if operation.get_friendly_name() not in before:
            before.add(operation.get_friendly_name())
            waiting += [value.get_source_output().get_node() for value in operation.inputs()]
    names = [operation.get_friendly_name() for operation in operations if operation.get_type_name() != "Constant"]
    return [name for name in names if name not in before or name.removesuffix(BIASED) in kept]
