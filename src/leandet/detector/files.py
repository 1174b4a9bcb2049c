"""A detector on disk: safetensors, plain or sparse, with the card in the header. Nothing here unpickles."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from leandet.atomic import write_bytes
from leandet.card import CARD_KEY, Card
from leandet.detector.detector import Detector
from leandet.errors import UserError
from leandet.sparsify.sparse_file import SparseFile, encode, is_sparse


def save_detector(detector: Detector, card: Card, path: Path, *, sparse: bool = False) -> None:
    """Write weights and card to `path`, whole or not at all.

    Args:
        detector: of the card's spec.
        card: for the header.
        path: of the file.
        sparse: in the compressed form that is small where weights are zero or shared; it loads to the same bits.

    Raises:
        UserError: if the disk refuses.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    write = encode if sparse else save
    write_bytes(path, write(tensors, {CARD_KEY: card.dump()}))


def read_card(path: Path) -> Card:
    """The card of a `.safetensors` file; reads only the header.

    Raises:
        UserError: if the file is missing, damaged or not leandet's.
    """
    return Card.parse(_metadata(path).get(CARD_KEY), str(path))


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): copy or train it again.") from error


def load_detector(path: Path) -> tuple[Detector, Card]:
    """The detector and card that `save_detector` wrote, in evaluation mode.

    Raises:
        UserError: if the file is missing, damaged, not leandet's, or does not fit its own card.
    """
    metadata = _metadata(path)
    card = Card.parse(metadata.get(CARD_KEY), str(path))
    detector = Detector(card.spec)
    fill = _fill_sparse if is_sparse(metadata) else _fill
    fill(detector.state_dict(), path)
    return detector.eval(), card


def _fill(state: dict[str, Tensor], path: Path) -> None:
    with safe_open(path, "pt") as file:
        _check(state, {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}, path)  # noqa: SIM118
        for name, tensor in state.items():
            tensor.copy_(file.get_tensor(name))


def _fill_sparse(state: dict[str, Tensor], path: Path) -> None:
    file = SparseFile.open(path)
    _check(state, file.shapes, path)  # before anything is unpacked
    for name, tensor in file.tensors().items():
        state[name].copy_(tensor)


def _check(state: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """Refuse tensors that are not the architecture's."""
    if wrong := sorted(set(shapes) ^ set(state)):
        raise UserError(f"{path}: tensor {wrong[0]!r} does not belong to its card's architecture: export it again.")
    for name, tensor in state.items():
        if shapes[name] != tuple(tensor.shape):
            raise UserError(
                f"{path}: tensor {name!r} has shape {list(shapes[name])}, its card says {list(tensor.shape)}."
            )


def load(path: str | Path) -> Detector:
    """The detector in a `.safetensors` file, a plain module in evaluation mode.

    To run it on photographs, open the file with `leandet.open_runtime`.

    Raises:
        UserError: as `load_detector`.
    """
    return load_detector(Path(path))[0]
