"""Messages: what is none is one sentence; every field has limits; the page of the documentation says what is so."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.explorer import protocol
from mirage_jax.errors import UserError

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent

BAD = {
    "no JSON": ("{", "cannot be read as JSON"),
    "a list": ("[1]", "expected a JSON object"),
    "no type": ("{}", "with a 'type'"),
    "unknown type": ('{"type": "format_disk"}', "unknown type"),
    "message to the page": ('{"type": "welcome"}', "unknown type"),
    "unknown field": ('{"type": "undo", "path": "/etc"}', "unknown field"),
    "too fast": ('{"type": "move", "forward": 7}', "from -1 to 1"),
    "NaN": ('{"type": "move", "forward": NaN}', "from -1 to 1"),
    "text for a number": ('{"type": "jump", "moment": "3"}', "a whole number"),
    "half a moment": ('{"type": "jump", "moment": 0.5}', "a whole number"),
    "truth for a number": ('{"type": "jump", "moment": true}', "a whole number"),
    "number for truth": ('{"type": "move", "tap": 1}', "expected bool"),
    "long prompt": (json.dumps({"type": "prompt", "text": "x" * 2001}), "at most 2000"),
    "deep": ("[" * 5000, "JSON"),
}


@pytest.mark.parametrize("text, said", BAD.values(), ids=BAD)
def test_what_is_no_message_is_a_sentence(text, said):
    with pytest.raises(UserError, match=said):
        protocol.parse(text)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text() | st.integers(), st.lists, max_leaves=5))
def test_no_value_makes_it_raise_anything_else(value):
    for kind in protocol.FROM_PAGE:
        for name in kind.__dataclass_fields__:
            try:
                protocol.parse(json.dumps({"type": kind.__name__.lower(), name: value}))
            except UserError as error:
                assert len(str(error)) < 300


def test_messages_are_read_as_they_are_meant():
    assert protocol.parse('{"type": "move", "forward": 1, "tap": true}') == protocol.Move(forward=1.0, tap=True)
    assert protocol.parse('{"type": "start", "seed": 4294967295}') == protocol.Start(seed=2**32 - 1)
    assert json.loads(protocol.to_json(protocol.Busy("x", 0.5))) == {"type": "busy", "what": "x", "done": 0.5}


def test_pictures_carry_camera_and_overlay():
    pose, lens = np.arange(16.0).reshape(4, 4), np.array([0.8, 0.8, 0.5, 0.5])
    kind, age = np.eye(3, dtype=np.uint8), np.full((3, 3), 1.26)
    data = protocol.picture(7, 2, 4, (pose, lens), b"JPEG", kind, age)
    assert (data[0], data[12], data[13]) == (protocol.PICTURE, 3, 3)
    assert np.frombuffer(data[14:94], "<f4").tolist()[:16] == pose.reshape(-1).tolist()
    assert data[94:103] == kind.tobytes() and set(data[103:112]) == {13} and data[112:] == b"JPEG"


def test_the_page_of_the_documentation_has_these_tables():
    assert protocol.markdown().rstrip() in (ROOT / "docs" / "explorer.md").read_text()
