"""How each engine is asked to run a detector: one call at a time, in float32, idle threads not spinning.

What runs a model and what measures one must ask alike, or the measurement is of something else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime


def onnx_options(threads: int, *, spinning: bool = False) -> onnxruntime.SessionOptions:
    """ONNX Runtime's options.

    Args:
        threads: for one call.
        spinning: let idle threads spin for the next piece of work.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # its warnings on optimisation are not the user's business
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spinning else "0")
    return options


def openvino_settings(threads: int) -> dict[str, object]:
    """OpenVINO's settings for `compile_model`; `threads` for one call."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # Brain floats where a processor has them would answer up to a hundredth differently: not without being asked.
        "INFERENCE_PRECISION_HINT": "f32",
    }
