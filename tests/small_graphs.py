"""Small ONNX graphs made by hand, and what ONNX Runtime answers on them."""

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper


def model(nodes, inputs, outputs, constants) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    made = [[helper.make_tensor_value_info(n, k, None) for n, k in side.items()] for side in (inputs, outputs)]
    graph = helper.make_graph(nodes, "small", *made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def answer(made: onnx.ModelProto, *, optimised: bool = False, **given):
    """The first output."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, given)[0]
