"""What a person can mend: the one exception that their input can cause, and the sentence for a missing extra."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something the person can mend: the message is one clear sentence.

    It names the file, line or field, says what is wrong and what to do. The command line prints it
    and ends with exit code 2; Python callers catch it as an ordinary exception.
    """


_EXTRAS = {
    "train": frozenset(
        {
            "torch",
            "torchvision",
            "lightning",
            "safetensors",
            "onnx",
            "onnxscript",
            "faster_coco_eval",
            "jinja2",
            "optuna",
        }
    ),
    "openvino": frozenset({"openvino", "nncf"}),
    "ncnn": frozenset({"ncnn", "pnnx"}),
    "litert": frozenset({"ai_edge_litert", "litert_torch"}),
    "video": frozenset({"supervision", "trackers"}),
    "cluster": frozenset({"ray", "pyarrow", "pandas"}),
}
_NAMES = {"train": "the training extra"}


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install when a module of an extra is missing; None if the module belongs to none."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in _EXTRAS.items():
        if module in modules:
            which = _NAMES.get(extra, f"the extra {extra}")
            return f"this needs {error.name}, which only {which} brings: pip install 'leandet[{extra}]'."
    return None


@contextmanager
def naming_extras(where: str = "") -> Iterator[None]:
    """Say which extra to install where a module of one is missing.

    Args:
        where: the file or field that needs it, before the sentence.

    Raises:
        UserError: instead of the `ModuleNotFoundError`; other modules' are left as they are.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (sentence := missing_extra(error)) is None:
            raise
        raise UserError(f"{where}: {sentence}" if where else sentence) from error
