"""A detector on disk: safetensors, with the card in the header. Nothing here unpickles."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from leandet.atomic import write_bytes
from leandet.card import CARD_KEY, Card
from leandet.detector.detector import Detector
from leandet.errors import UserError


def save_detector(detector: Detector, card: Card, path: Path) -> None:
    """Write weights and card to `path`, whole or not at all.

    Raises:
        UserError: if the disk refuses.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    write_bytes(path, save(tensors, {CARD_KEY: card.dump()}))


def read_card(path: Path) -> Card:
    """The card of a `.safetensors` file; reads only the header.

    Raises:
        UserError: if the file is missing, damaged or not leandet's.
    """
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}): copy or train it again.") from error
    return Card.parse(metadata.get(CARD_KEY), str(path))


def load_detector(path: Path) -> tuple[Detector, Card]:
    """The detector and card that `save_detector` wrote, in evaluation mode.

    Raises:
        UserError: if the file is missing, damaged, not leandet's, or does not fit its own card.
    """
    card = read_card(path)
    detector = Detector(card.spec)
    state = detector.state_dict()
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        if wrong := sorted(names ^ set(state)):
            raise UserError(f"{path}: tensor {wrong[0]!r} does not belong to its card's architecture: export it again.")
        for name, tensor in state.items():
            found = file.get_slice(name).get_shape()
            if list(found) != list(tensor.shape):
                raise UserError(f"{path}: tensor {name!r} has shape {found}, its card says {list(tensor.shape)}.")
            tensor.copy_(file.get_tensor(name))
    return detector.eval(), card


def load(path: str | Path) -> Detector:
    """The detector in a `.safetensors` file, a plain module in evaluation mode.

    To run it on photographs, open the file with `leandet.open_runtime`.

    Raises:
        UserError: as `load_detector`.
    """
    return load_detector(Path(path))[0]
