"""What a person can mend: the one exception that their input can cause, and the sentence for a missing extra."""


class UserError(Exception):
    """Something the person can mend: the message is one clear sentence.

    It names the file, line or field, says what is wrong and what to do. The command line prints it
    and ends with exit code 2; Python callers catch it as an ordinary exception.
    """


_TRAINING = frozenset(
    {"torch", "torchvision", "lightning", "safetensors", "onnx", "onnxscript", "faster_coco_eval", "jinja2"}
)


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """What to install when a module of the training extra is missing; None if the module is none of them."""
    if (error.name or "").partition(".")[0] not in _TRAINING:
        return None
    return f"this needs {error.name}, which only the training extra brings: pip install 'leandet[train]'."
