import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leandet.card import CARD_VERSION, MAX_CARD_BYTES, Card
from leandet.detector.spec import Spec
from leandet.errors import UserError
from leandet.preprocess import Size


def _card() -> Card:
    spec = Spec("mobilenet_v2", 2, Size(320, 352), 48, (16, 32), {"head.0": 24})
    return Card(("cat", "Hündin"), spec, {"ap": 0.25}, {"leandet": "0.1.0"})


def _changed(**fields: object) -> str:
    return json.dumps(json.loads(_card().dump()) | fields)


def _changed_spec(**fields: object) -> str:
    value = json.loads(_card().dump())
    value["spec"] |= fields
    return json.dumps(value)


def test_a_card_comes_back_as_it_was_written():
    text = _card().dump()
    assert "\n" not in text
    assert Card.parse(text, "m.onnx") == _card()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "carries no leandet card"),
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "version None"),
        ("3", "version None"),
        ("{}", "version None"),
        (_changed(version=CARD_VERSION + 1), f"version {CARD_VERSION + 1}"),
        (_changed(version="1"), "version '1'"),
        (" " * (MAX_CARD_BYTES + 1), "larger than"),
        (json.dumps({"version": CARD_VERSION}), "damaged"),
        (_changed(classes=None), "damaged"),
        (_changed(classes=["cat"]), "names 1 classes but its spec has 2"),
        (_changed(metrics={"ap": "high"}), "damaged"),
        (_changed(metrics=[]), "damaged"),
        (_changed(provenance=None), "damaged"),
        (_changed(spec=None), "not an object"),
        (_changed(spec={}), "spec is damaged"),
        (_changed_spec(size=[320]), "spec is damaged"),
        (_changed_spec(size=[320, 333]), "multiple of 32"),
        (_changed_spec(size=[0, 320]), "multiple of 32"),
        (_changed_spec(size=[320, 1 << 20]), "multiple of 32"),
        (_changed_spec(width=0), "width must be"),
        (_changed_spec(levels=[]), "levels must be"),
        (_changed_spec(levels=[64]), "levels must be"),
        (_changed_spec(kept=[1]), "spec is damaged"),
        (_changed_spec(colour="blue"), "unknown field 'colour'"),
    ],
)
def test_a_bad_card_is_one_sentence_that_names_the_file(text, said):
    with pytest.raises(UserError, match=said) as caught:
        Card.parse(text, "m.onnx")
    assert "m.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(["classes", "spec", "metrics", "provenance"]), json_values)
def test_any_damage_to_a_field_is_read_or_refused(field, value):
    with contextlib.suppress(UserError):
        Card.parse(_changed(**{field: value}), "m.onnx")


@given(st.sampled_from(["backbone", "classes", "size", "width", "levels", "kept"]), json_values)
def test_any_damage_to_the_spec_is_read_or_refused(field, value):
    with contextlib.suppress(UserError):
        Card.parse(_changed_spec(**{field: value}), "m.onnx")
