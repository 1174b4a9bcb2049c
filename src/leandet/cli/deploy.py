"""The verbs that bring a finished detector to where it runs: export, quantize."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from leandet.cli.arguments import Json, Threads, tell
from leandet.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from leandet.data.sample import Dataset
    from leandet.preprocess import Size
    from leandet.quantize.quantize import Quantized, Tuned

PARITY_IMAGES = 8
SIMULATED_EPOCHS = 5


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


def quantize_command(
    model: Annotated[Path, typer.Argument(help="A .onnx or .safetensors detector in float32.")],
    data: Annotated[Path, typer.Option(help="Labelled images: train calibrates, val chooses, test judges.")],
    to: Annotated[str, typer.Option(help="The engine: onnx or openvino.")] = "onnx",
    out: Annotated[Path | None, typer.Option(help="The new model; MODEL-int8 beside it if left out.")] = None,
    max_drop: Annotated[float, typer.Option(min=0, max=1, help="AP that may be lost, a fraction.")] = 0.005,
    force: Annotated[bool, typer.Option("--force", help="Write it even if it is slower or worse.")] = False,
    qat_epochs: Annotated[
        int, typer.Option(min=0, help="Fine-tune a .safetensors detector this long with 8-bit rounding first.")
    ] = 0,
    simulate: Annotated[
        str | None,
        typer.Option(help="Only show the accuracy of fewer bits, as lsq or dorefa would give; writes nothing."),
    ] = None,
    bits: Annotated[int | None, typer.Option(min=2, max=8, help="Bits for --simulate; 4 if left out.")] = None,
    threads: Threads = None,
    as_json: Json = False,
) -> None:
    """Quantise to INT8; a result that is slower or loses more than --max-drop is refused with the figures."""
    from leandet.data.read import read
    from leandet.export import SUFFIXES
    from leandet.quantize.quantize import quantize, refusal

    if to not in ("onnx", "openvino"):
        raise UserError(f"--to must be onnx or openvino, not {to!r}.")
    path = out or model.with_name(f"{model.stem}-int8{SUFFIXES[to]}")
    if path.suffix != SUFFIXES[to]:
        raise UserError(f"--out {path} must end in {SUFFIXES[to]} for {to}.")
    if path.resolve() == model.resolve():
        raise UserError(f"--out {path} is the model itself: name another file.")
    if (qat_epochs or simulate) and model.suffix != ".safetensors":
        raise UserError(f"{model}: fine-tuning needs the weights: give the .safetensors file.")
    if simulate is None and bits is not None:
        raise UserError("--bits goes with --simulate: what is written has 8 bits.")
    if simulate is not None and (out is not None or force):
        raise UserError("--simulate writes nothing: leave out --out and --force.")
    dataset, _ = read(data)
    if simulate:
        _simulate(model, dataset, simulate, bits or 4, qat_epochs or SIMULATED_EPOCHS, as_json=as_json)
        return
    with tempfile.TemporaryDirectory(prefix="leandet-") as scratch:
        source = _as_onnx(model, dataset, Path(scratch))
        tuned = _tuned(model, dataset, qat_epochs, Path(scratch)) if qat_epochs else None
        result = quantize(
            source, dataset, path, max_drop=max_drop, force=force, threads=threads, tuned=tuned, tell=tell
        )
    if not (result.accepted or force):
        raise UserError(refusal(result))
    _report(result, as_json=as_json)


def _tuned(model: Path, dataset: Dataset, epochs: int, scratch: Path) -> Tuned:
    from leandet.detector.files import load_detector
    from leandet.quantize.aware import tune

    detector, card = load_detector(model)
    return tune(detector, card, dataset, scratch, epochs=epochs)


def _simulate(model: Path, dataset: Dataset, method: str, bits: int, epochs: int, *, as_json: bool) -> None:
    """Print what fewer bits would cost."""
    from leandet.detector.files import load_detector
    from leandet.quantize.aware import simulate

    detector, card = load_detector(model)
    with tempfile.TemporaryDirectory(prefix="leandet-") as scratch:
        found = simulate(detector, card, dataset, Path(scratch), method=method, bits=bits, epochs=epochs)
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    typer.echo(
        f"{method}, {bits} bits, {epochs} epochs: AP {100 * found.float_ap:.1f} -> {100 * found.ap:.1f} % on "
        f"{found.images} images of {found.split}; simulated, accuracy only: no engine here runs {bits}-bit weights, "
        "so nothing was written and nothing is faster"
    )


def _as_onnx(model: Path, dataset: Dataset, scratch: Path) -> Path:
    """The model itself where it is an ONNX file, else its export."""
    if model.suffix != ".safetensors":
        return model
    from leandet.detector.files import load_detector
    from leandet.export import export

    detector, card = load_detector(model)
    path = scratch / "model.onnx"
    export(detector, card, path, _letterboxed(dataset, card.spec.size))
    return path


def _report(result: Quantized, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(result.to_json()))
        return
    typer.echo(f"{result.path}: {result.summary()}")
    if result.reasons:
        typer.echo(f"forced, although {' and '.join(result.reasons)}")


def _real(data: Path, size: Size) -> npt.NDArray[np.uint8]:
    from leandet.data.read import read

    return _letterboxed(read(data)[0], size)


def _letterboxed(dataset: Dataset, size: Size) -> npt.NDArray[np.uint8]:
    """A few images of the data's last split: uint8 (B, 3, H, W)."""
    import numpy as np

    from leandet.data.image import load_image
    from leandet.preprocess import letterbox

    samples = dataset.splits[dataset.judging] or dataset.splits["train"]  # of a single image, `val` is empty
    pictures = [letterbox(load_image(sample.image), size)[0].transpose(2, 0, 1) for sample in samples[:PARITY_IMAGES]]
    return np.ascontiguousarray(np.stack(pictures))


def _invented(size: Size) -> npt.NDArray[np.uint8]:
    """Pictures with structure, and noise: uint8 (4, 3, H, W)."""
    import numpy as np

    from leandet.runtime.photograph import photograph_like

    drawn = photograph_like(size.height, size.width).transpose(2, 0, 1)
    noise = np.random.default_rng(0).integers(0, 256, (2, *drawn.shape), np.uint8)
    return np.ascontiguousarray(np.concatenate([drawn[None], drawn[None, :, ::-1], noise]))
