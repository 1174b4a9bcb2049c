"""The verbs that bring a finished detector to where it runs: export, quantize."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leandet.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from leandet.preprocess import Size

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
PARITY_IMAGES = 8


def export_command(
    model: Annotated[Path, typer.Argument(help="A .safetensors detector.")],
    to: Annotated[str, typer.Option(help="The format: onnx, openvino, ncnn or litert.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="The new file or folder; beside the model if left out.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Labelled images to compare on; two drawn pictures and two of noise if left out."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a deployable model, checked against PyTorch before it appears."""
    from leandet.detector.files import load_detector
    from leandet.export import SUFFIXES, export
    from leandet.runtime import model_bytes

    if to not in SUFFIXES:
        raise UserError(f"--to must be one of {', '.join(SUFFIXES)}, not {to!r}.")
    detector, card = load_detector(model)
    path = out or model.with_suffix(SUFFIXES[to])
    size = card.spec.size
    images = _invented(size) if data is None else _real(data, size)
    parity = export(detector, card, path, images, to)
    if as_json:
        figures = {"parity_px": parity.boxes, "parity_score": parity.scores, "compared": parity.compared}
        typer.echo(json.dumps({"path": str(path), "bytes": model_bytes(path), **figures}))
    else:
        typer.echo(
            f"{path}: {model_bytes(path) / 1e6:.2f} MB, within {parity.boxes:.2g} px and a score of "
            f"{parity.scores:.2g} of PyTorch over {parity.compared} detections in {len(images)} images"
        )


def _real(data: Path, size: Size) -> npt.NDArray[np.uint8]:
    """A few images of the data's last split, letterboxed: uint8 (B, 3, H, W)."""
    import numpy as np

    from leandet.data.image import load_image
    from leandet.data.read import read
    from leandet.preprocess import letterbox

    dataset, _ = read(data)
    samples = dataset.splits.get("test") or dataset.splits["val"] or dataset.splits["train"]
    return np.stack(
        [np.ascontiguousarray(letterbox(load_image(s.image), size)[0].transpose(2, 0, 1)) for s in samples[:PARITY_IMAGES]]
    )


def _invented(size: Size) -> npt.NDArray[np.uint8]:
    """Pictures with structure, and noise: uint8 (4, 3, H, W)."""
    import numpy as np

    from leandet.runtime.bench import photograph_like

    drawn = photograph_like(size.height, size.width).transpose(2, 0, 1)
    noise = np.random.default_rng(0).integers(0, 256, (2, *drawn.shape), np.uint8)
    return np.ascontiguousarray(np.concatenate([drawn[None], drawn[None, :, ::-1], noise]))
