"""Models that are a folder: the engine's own files beside `card.json`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leandet.card import MAX_CARD_BYTES, Card
from leandet.errors import UserError

CARD_FILE = "card.json"


def read_folder_card(path: Path, files: Sequence[str]) -> Card:
    """The card of a model folder, once all its files are known to be there.

    Args:
        path: the folder.
        files: names of the engine's own files.

    Raises:
        UserError: if the folder, one of its files or the card is missing, or the card is damaged.
    """
    if not path.is_dir():
        raise UserError(f"{path}: there is no such folder; give the path of a model exported by leandet.")
    for name in (*files, CARD_FILE):
        if not (path / name).is_file():
            raise UserError(f"{path}: its file {name} is missing; copy the whole folder or export the model again.")
    card = path / CARD_FILE
    if card.stat().st_size > MAX_CARD_BYTES:
        raise UserError(f"{card}: it is larger than {MAX_CARD_BYTES} bytes; refusing to read it.")
    try:
        text = card.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{card}: it is not UTF-8 text; export the model again.") from error
    return Card.parse(text, str(card))
