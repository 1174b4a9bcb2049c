import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from leandet.errors import UserError
from leandet.preprocess import Size
from leandet.runtime import Runtime, open_runtime
from leandet.runtime.onnx import open_onnx


def test_the_red_box_comes_back_in_the_photographs_own_pixels(make_onnx, picture):
    runtime = open_runtime(make_onnx())
    found = runtime(picture(480, 480, (120, 60, 300, 240)))  # scaled by 64/480, padded 16 px left and right
    assert found.labels.tolist() == [1, 0]
    np.testing.assert_allclose(found.scores, [0.9, 0.1], atol=1e-6)
    np.testing.assert_allclose(found.boxes[0], [120, 60, 300, 240], atol=480 / 64)
    np.testing.assert_allclose(found.boxes[1], [0, 0, 0, 60])  # the corner lies in the padding: clipped to the image


def test_an_image_of_the_networks_size_needs_no_undo(make_onnx, picture):
    found = open_runtime(make_onnx())(picture(64, 96, (10, 20, 31, 43)))
    np.testing.assert_array_equal(found.boxes[0], [10, 20, 31, 43])
    assert found.boxes.dtype == np.float32
    assert found.labels.dtype == np.int64


def test_a_batch_answers_as_its_images_alone_do(make_onnx, picture):
    runtime = open_runtime(make_onnx(), threads=1)
    images = [picture(50, 70, (5, 6, 40, 41)), picture(300, 100, (10, 200, 90, 290)), picture(64, 96, (0, 0, 9, 9))]
    for alone, together in zip([runtime(image) for image in images], runtime.batch(images), strict=True):
        np.testing.assert_array_equal(alone.boxes, together.boxes)
        np.testing.assert_array_equal(alone.scores, together.scores)
        np.testing.assert_array_equal(alone.labels, together.labels)
    assert runtime.batch([]) == []


def test_stages_make_up_the_whole(make_onnx, picture):
    runtime = open_runtime(make_onnx())
    image = picture(100, 100, (10, 10, 60, 60))
    inputs, placements = runtime.prepare([image])
    assert inputs.shape == (1, 3, 64, 96)
    raw = runtime.run_network(inputs)
    np.testing.assert_array_equal(runtime.finish(raw, placements)[0].boxes, runtime(image).boxes)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("spinning", [False, True])
def test_threads_and_spinning_are_set(make_onnx, picture, threads, spinning):
    runtime = open_onnx(make_onnx(), threads, spinning=spinning)
    assert isinstance(runtime, Runtime)
    assert (runtime.name, runtime.device, runtime.threads) == ("onnxruntime", "cpu", threads)
    assert runtime.version
    assert runtime.card.classes == ("corner", "red")
    assert runtime.precision == "float32"
    options = runtime._session.get_session_options()
    assert options.intra_op_num_threads == threads
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == ("1" if spinning else "0")
    assert len(runtime(picture(40, 40, (1, 1, 20, 20)))) == 2


def test_threads_spin_unless_they_are_told_not_to(make_onnx):
    for runtime in (open_onnx(make_onnx(), 2), open_runtime(make_onnx(), 2)):
        options = runtime._session.get_session_options()
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"


def test_threads_left_out_are_all_usable_cores(make_onnx):
    assert open_runtime(make_onnx()).threads >= 1


@pytest.mark.parametrize("threads", [0, -1, 5000])
def test_impossible_threads_are_refused(make_onnx, threads):
    with pytest.raises(UserError, match="threads must be from 1"):
        open_runtime(make_onnx(), threads)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), [[1]]],
)
def test_other_arrays_are_refused(make_onnx, image):
    with pytest.raises(UserError, match="an image must"):
        open_runtime(make_onnx())(image)


def test_a_missing_file(tmp_path):
    with pytest.raises(UserError, match="there is no such file"):
        open_runtime(tmp_path / "none.onnx")


@pytest.mark.parametrize(("name", "said"), [("a.pth", r"no engine runs \.pth"), ("a", "without a suffix")])
def test_a_suffix_that_no_engine_reads(tmp_path, name, said):
    with pytest.raises(UserError, match=said) as caught:
        open_runtime(tmp_path / name)
    assert ".onnx" in str(caught.value)


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.95])
def test_a_truncated_file(make_onnx, kept):
    path = make_onnx()
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(UserError) as caught:
        open_runtime(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"hello", b"\x00" * 1000, b"\x89PNG\r\n\x1a\n" + b"x" * 99])
def test_a_foreign_file(tmp_path, data):
    path = tmp_path / "foreign.onnx"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"foreign\.onnx"):
        open_runtime(path)


def test_a_folder_is_not_a_model(tmp_path):
    (tmp_path / "a.onnx").mkdir()
    with pytest.raises(UserError, match="no such file"):
        open_runtime(tmp_path / "a.onnx")


def test_no_card_and_other_versions(make_onnx):
    with pytest.raises(UserError, match="no leandet card"):
        open_runtime(make_onnx(card=""))
    with pytest.raises(UserError, match="version 2"):
        open_runtime(make_onnx(card=json.dumps({"version": 2})))
    with pytest.raises(UserError, match="not JSON"):
        open_runtime(make_onnx(card="{"))


def _rewrite(path: Path, change) -> Path:
    model = onnx.load_model_from_string(path.read_bytes())
    change(model.graph)
    path.write_bytes(model.SerializeToString())
    return path


def test_card_and_graph_that_disagree_on_the_size(make_onnx, tmp_path):
    other = open_runtime(make_onnx("other.onnx", Size(32, 32))).card.dump()
    with pytest.raises(UserError, match="its card says an input of 3 x 32 x 32 px but its graph takes 3 x 64 x 96"):
        open_runtime(make_onnx(card=other))


def test_a_fixed_batch_is_refused(make_onnx):
    def fix(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    with pytest.raises(UserError, match="only batches of 1"):
        open_runtime(_rewrite(make_onnx(), fix))


def test_an_output_of_another_type_is_refused(make_onnx):
    def drop(graph):
        del graph.output[2]

    with pytest.raises(UserError, match="`labels` must be"):
        open_runtime(_rewrite(make_onnx(), drop))


def test_an_input_of_another_type_is_refused(make_onnx, tmp_path):
    size = open_runtime(make_onnx()).card.spec.size
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["boxes"])],
        "foreign",
        [value("images", TensorProto.FLOAT, ["B", 3, size.height, size.width])],
        [value("boxes", TensorProto.FLOAT, None)],
    )
    model = onnx.load_model_from_string(make_onnx().read_bytes())
    model.graph.CopyFrom(graph)
    path = tmp_path / "float.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match="its input must be `images`, uint8"):
        open_runtime(path)


def test_answers_of_another_shape_are_refused(make_onnx, picture):
    def swap(graph):
        node = next(n for n in graph.node if n.output[0] == "boxes")
        del node.input[1]  # one box but two scores
        for output in graph.output:
            output.type.tensor_type.ClearField("shape")

    runtime = open_runtime(_rewrite(make_onnx(), swap))
    with pytest.raises(UserError, match="the model answered boxes"):
        runtime(picture(64, 96, (1, 1, 9, 9)))
