"""How each engine is asked to run a detector: one call at a time, in float32.

What runs a model and what measures one must ask alike, or the measurement is of something else.
"""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime
    import openvino

SETTLE_SECONDS = 0.1  # ONNX Runtime's threads look for work for about 0.06 s after a call before they sleep


def onnx_options(threads: int, *, spinning: bool = True) -> onnxruntime.SessionOptions:
    """ONNX Runtime's options.

    Args:
        threads: for one call.
        spinning: see `leandet.runtime.onnx.open_onnx`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # its warnings on optimisation are not the user's business
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    return options


def settle(threads: int) -> None:
    """Wait until the threads of a network that ran before are asleep, so that they do not disturb the next one.

    Args:
        threads: of one call; with one there are no idle threads to wait for.
    """
    if threads > 1:
        time.sleep(SETTLE_SECONDS)


@functools.cache
def openvino_core() -> openvino.Core:
    """OpenVINO's core, one for the whole process and kept until its end.

    A core gives its thread another stack for signals when it first compiles, and puts back the former one when it goes
    (OpenVINO 2026.4). Of two that go in the order in which they came, the second puts back the first one's, which no
    longer exists; the next signal, as when a training's loader ends, then kills the process.
    """
    import openvino

    return openvino.Core()


def openvino_settings(threads: int) -> dict[str, object]:
    """OpenVINO's settings for `compile_model`; `threads` for one call."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # Brain floats where a processor has them would answer up to a hundredth differently: not without being asked.
        "INFERENCE_PRECISION_HINT": "f32",
    }
