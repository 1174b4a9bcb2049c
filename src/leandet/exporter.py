"""PyTorch's ONNX exporter, without its talk."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from leandet.errors import UserError
from leandet.loggers import only_errors

IMAGES = "images"  # the one input of every graph


def exported(
    module: nn.Module,
    example_input: Tensor,
    *,
    outputs: Sequence[str] | None = None,
    dynamic_shapes: tuple[dict[int, Any], ...] | None = None,
) -> onnx.ModelProto:
    """The ONNX graph of a module in the mode that it is in.

    Args:
        module: any exportable module.
        example_input: its argument.
        outputs: names of the graph's outputs; the exporter's own if left out.
        dynamic_shapes: as for `torch.onnx.export`; every size is fixed if left out.

    Raises:
        UserError: if PyTorch returns no graph.
    """
    with only_errors("torch.onnx"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's notes on its own internals
        program = torch.onnx.export(
            module,
            (example_input,),
            dynamo=True,
            verbose=False,
            input_names=[IMAGES],
            output_names=outputs,
            dynamic_shapes=dynamic_shapes,
        )
    if program is None:
        raise UserError("PyTorch's exporter returned no graph; please report this network.")
    return program.model_proto
