"""One writer for each engine. All write whole models with their card; none adds an NMS."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import torch

from leandet.atomic import write_bytes, write_text
from leandet.card import CARD_KEY, Card
from leandet.detector.detector import Detector
from leandet.errors import UserError
from leandet.export.batch import free_batch
from leandet.export.blocks import fill_blocks
from leandet.export.graph import ChannelsLast, Deployed, Everywhere, easily_decoded
from leandet.exporter import exported
from leandet.loggers import ROOT, only_errors
from leandet.machine import channel_block
from leandet.runtime.folder import CARD_FILE
from leandet.runtime.layout import NCNN_BIN, NCNN_PARAM, OPENVINO_XML

TRACED = 7  # images that the exporter sees: no other number of a graph that it could be taken for is likely to be 7


def write_onnx(detector: Detector, card: Card, path: Path) -> None:
    """One ONNX file with a dynamic batch, the top-k in its graph and the card in its metadata."""
    model = onnx.load_from_string(to_onnx(detector, card))
    fill_blocks(model.graph, channel_block())
    write_bytes(path, model.SerializeToString())


def write_openvino(detector: Detector, card: Card, path: Path) -> None:
    """A folder with OpenVINO's two files, float32, made from the same ONNX graph, and `card.json`."""
    save_openvino(read_onnx_with_openvino(to_onnx(detector, card)), card, path)


def read_onnx_with_openvino(content: bytes) -> Any:
    """The `openvino.Model` of an ONNX file's bytes, its constants folded."""
    import openvino

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "model.onnx"
        file.write_bytes(content)
        return openvino.convert_model(file)


def save_openvino(model: Any, card: Card, path: Path) -> None:
    """Write an `openvino.Model` and its card as a new folder."""
    import openvino

    path.mkdir()
    openvino.save_model(model, str(path / OPENVINO_XML), compress_to_fp16=False)
    write_text(path / CARD_FILE, card.dump())


def write_ncnn(detector: Detector, card: Card, path: Path) -> None:
    """A folder with ncnn's two files, float32, converted by pnnx, and `card.json`; the host does the top-k."""
    import pnnx

    size = detector.spec.size
    example = torch.zeros(1, 3, size.height, size.width)
    path.mkdir()
    with tempfile.TemporaryDirectory() as scratch, silenced(), torch.no_grad():
        work = Path(scratch)
        pnnx.export(Everywhere(detector).eval(), str(work / "model.pt"), (example,), fp16=False, check_trace=False)
        parts = {NCNN_PARAM: work / "model.ncnn.param", NCNN_BIN: work / "model.ncnn.bin"}
        if not all(part.is_file() for part in parts.values()):
            raise UserError("pnnx wrote no ncnn model; please report this network.")
        for name, part in parts.items():
            write_bytes(path / name, part.read_bytes())
    write_text(path / CARD_FILE, card.dump())


def write_litert(detector: Detector, card: Card, path: Path) -> None:
    """One LiteRT file, float32, channels last; the host does the top-k. The card is an attached `card.json`.

    Attached files are a zip archive after the model, as TensorFlow Lite's metadata documentation lays down.
    """
    with silenced():
        import litert_torch

        size = detector.spec.size
        example = torch.zeros(1, size.height, size.width, 3, dtype=torch.uint8)
        converted = litert_torch.convert(ChannelsLast(Everywhere(detector)).eval(), (example,))
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "model.tflite"
            converted.export(str(file))
            content = file.read_bytes()
    write_bytes(path, content + attached(card))


def attached(card: Card) -> bytes:
    """A zip archive that holds the card, to be appended to a LiteRT model."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        file.writestr(zipfile.ZipInfo(CARD_FILE), card.dump())  # ZipInfo has a fixed date: equal models, equal bytes
    return archive.getvalue()


def to_onnx(detector: Detector, card: Card) -> bytes:
    """The bytes of the ONNX file: uint8 (B, 3, H, W) RGB in, boxes, scores and labels out, B dynamic.

    Raises:
        UserError: if PyTorch's exporter gives nothing.
    """
    size = detector.spec.size
    model = exported(
        Deployed(easily_decoded(detector)).eval(),
        torch.zeros(TRACED, 3, size.height, size.width, dtype=torch.uint8),
        outputs=["boxes", "scores", "labels"],
    )
    free_batch(model, TRACED)
    stamp(model, card)
    return bytes(model.SerializeToString())


def stamp(model: onnx.ModelProto, card: Card) -> None:
    """Put the card into a graph's metadata, in place of whatever it says of itself."""
    del model.metadata_props[:]
    entry = model.metadata_props.add()
    entry.key, entry.value = CARD_KEY, card.dump()


def replace_card(path: Path, card: Card) -> None:
    """Give an `.onnx` file or a model folder another card, in place."""
    if path.is_dir():
        write_text(path / CARD_FILE, card.dump())
        return
    model = onnx.load(path)
    stamp(model, card)
    write_bytes(path, model.SerializeToString())


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Converters written in C++ talk on standard output, which belongs to `--json`: send both streams away."""
    sys.stdout.flush()
    sys.stderr.flush()
    with (
        open(os.devnull, "wb") as nowhere,  # noqa: PTH123 (a path of the system)
        warnings.catch_warnings(),
        only_errors(ROOT),
    ):
        warnings.simplefilter("ignore")
        saved = os.dup(1), os.dup(2)
        try:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, stream)
                os.close(copy)
