import json

import pytest

from leandet.detector.spec import HeadStyle, Spec, check_size
from leandet.errors import UserError
from leandet.preprocess import Size


def spec(**changes: object) -> Spec:
    return Spec(**({"backbone": "mobilenet_v2", "classes": 3, "size": Size(64, 96)} | changes))


@pytest.mark.parametrize(
    "changes",
    [{}, {"width": 8, "levels": (16,), "kept": {"backbone.3": 12}}, {"size": Size(4096, 32), "levels": (8, 32)}]
    + [{"head": style, "levels": style.strides} for style in HeadStyle],
)
def test_a_spec_comes_back_from_json(changes):
    wanted = spec(**changes)
    assert Spec.from_json(json.loads(json.dumps(wanted.to_json()))) == wanted


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": 0}, "classes must be at least 1, not 0"),
        ({"width": 7}, "width must be from 8 to 4096 channels, not 7"),
        ({"levels": ()}, "levels must be some of 8, 16, 32"),
        ({"levels": (4, 8)}, "levels must be some of 8, 16, 32"),
        ({"levels": (32, 8)}, "levels must be some of 8, 16, 32, ascending"),
        ({"levels": (8, 8)}, "levels must be some of 8, 16, 32, ascending"),
        ({"head": HeadStyle.ONENET_CENTRE}, r"levels must be 4, not \[8, 16, 32\]"),
        ({"head": HeadStyle.ONENET_FCOS, "levels": (8, 16)}, "levels must be 8, 16, 32, 64, 128, not"),
        ({"size": Size(300, 320)}, "multiple of 32 .* not 300: try 288"),
        ({"size": Size(320, 310)}, "not 310: try 320"),
        ({"size": Size(0, 320)}, "not 0: try 32"),
        ({"size": Size(-64, 320)}, "not -64: try 32"),
        ({"size": Size(320, 4128)}, "not 4128: try 4096"),
    ],
)
def test_an_impossible_spec_is_refused(changes, said):
    with pytest.raises(UserError, match=said):
        spec(**changes)


def test_the_size_that_is_suggested_is_accepted():
    for side in (*range(-40, 400), *range(4000, 5000)):
        try:
            check_size(Size(side, 32))
        except UserError as error:
            suggested = int(str(error).rpartition("try ")[2].rstrip("."))
            check_size(Size(suggested, 32))
        else:
            assert side % 32 == 0


@pytest.mark.parametrize("value", [None, [], "spec", 3])
def test_json_that_is_no_object(value):
    with pytest.raises(UserError, match="not an object"):
        Spec.from_json(value)


@pytest.mark.parametrize("name", ["backbone", "classes", "size", "width", "levels", "kept"])
def test_a_missing_field(name):
    value = spec().to_json()
    del value[name]
    with pytest.raises(UserError, match=name):
        Spec.from_json(value)


def test_a_card_from_before_the_heads_has_the_lean_one():
    value = spec().to_json()
    del value["head"]
    assert Spec.from_json(value) == spec()


@pytest.mark.parametrize("head", ["wide", None, 3, ["lean"]])
def test_an_unknown_head_asks_for_another_version(head):
    with pytest.raises(UserError, match=r"unknown head.*another leandet version"):
        Spec.from_json(spec().to_json() | {"head": head})


def test_an_unknown_field_asks_for_another_version():
    with pytest.raises(UserError, match=r"'depth'.*another leandet version"):
        Spec.from_json(spec().to_json() | {"depth": 2})


@pytest.mark.parametrize(
    "change",
    [
        {"size": 64},
        {"size": [64]},
        {"size": [64, 64, 64]},
        {"size": ["a", "b"]},
        {"size": [64, 1e999]},
        {"classes": "many"},
        {"levels": None},
        {"levels": [8, None]},
        {"kept": [1]},
        {"kept": {"a": None}},
        {"width": []},
    ],
)
def test_a_field_of_the_wrong_type(change):
    with pytest.raises(UserError, match="damaged"):
        Spec.from_json(spec().to_json() | change)


@pytest.mark.parametrize("detections", [0, -1, 10_001])
def test_detections_in_range(detections):
    with pytest.raises(UserError, match="detections must be from 1 to 10000"):
        spec(detections=detections)


@pytest.mark.parametrize("fall", [-1.0, 8.5, float("nan")])
def test_fall_in_range(fall):
    with pytest.raises(UserError, match="fall must be from 0 to 8, not"):
        spec(fall=fall)


def test_a_card_from_before_the_fall_has_the_steepest():
    value = spec(fall=3.0).to_json()
    assert Spec.from_json(value).fall == 3
    del value["fall"]
    assert Spec.from_json(value).fall == 8


def test_a_card_from_before_all_classes_competed_keeps_them_apart():
    value = spec(classwise=False).to_json()
    assert not Spec.from_json(value).classwise
    del value["classwise"]
    assert Spec.from_json(value).classwise


def test_a_card_from_before_the_field_returns_a_hundred():
    value = spec(detections=300).to_json()
    assert Spec.from_json(value).detections == 300
    del value["detections"]
    assert Spec.from_json(value).detections == 100
