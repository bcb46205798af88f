"""The trajectory language: what it accepts, and what it says about the rest."""

import pytest

from mirage_jax.errors import UserError
from mirage_jax.geometry import trajectory_text
from mirage_jax.geometry.trajectory_text import Back, Step


def test_a_sentence_becomes_steps():
    steps = trajectory_text.read("Forward 2 & yaw -30 @ 2;\n linear; orbit 90 3.5 & up 1; pause @ 0.5; back; ")
    assert steps == [
        Step("forward 2 & yaw -30 @ 2", forward=2.0, yaw=-30.0, weight=2.0),
        Step("orbit 90 3.5 & up 1", orbit=90.0, orbit_distance=3.5, down=-1.0, smooth=False),
        Step("pause @ 0.5", weight=0.5),
        Back("back"),
    ]


@pytest.mark.parametrize(
    ("word", "field", "sign"),
    [
        ("forward", "forward", 1),
        ("backward", "forward", -1),
        ("right", "right", 1),
        ("left", "right", -1),
        ("down", "down", 1),
        ("up", "down", -1),
        ("dolly", "dolly", 1),
        ("yaw", "yaw", 1),
        ("pitch", "pitch", 1),
        ("roll", "roll", 1),
    ],
)
def test_every_word_has_its_field_and_sign(word, field, sign):
    (step,) = trajectory_text.read(f"{word} 2.5")
    assert step == Step(f"{word} 2.5", **{field: 2.5 * sign})


def test_scene_depth_scales_distances_only():
    steps = trajectory_text.read("forward 0.5d; left .25d; orbit 40; orbit 40 2d; yaw 8", scene_depth=6.0)
    assert [steps[0].forward, steps[1].right, steps[2].orbit_distance, steps[3].orbit_distance] == [3, -1.5, 6, 12]
    assert steps[4].yaw == 8.0


def test_presets_expand_and_scale():
    assert trajectory_text.read("there_and_back x2", 4.0) == trajectory_text.read("forward 1.0d; back", 4.0)
    assert trajectory_text.read("orbit x0.5", 4.0) == trajectory_text.read("orbit 20.0; back", 4.0)
    assert trajectory_text.read("look_around") == trajectory_text.read("yaw 60.0; back; yaw -60.0; back")
    corridor = trajectory_text.read("corridor", 2.0)
    assert [step.forward for step in corridor] == [1.6, 0.0, 1.6, 0.0]
    assert sum(step.yaw for step in corridor) == 360.0
    assert len(trajectory_text.read("there_and_back; look_around x1.5", 4.0)) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no steps"),
        ("linear", "has no steps"),
        ("foward 2", r"step 1 \('foward 2'\): unknown word 'foward'; did you mean 'forward'\?"),
        ("forward 2; yawn 90", r"step 2 \('yawn 90'\): unknown word 'yawn'; did you mean 'yaw'\?"),
        ("teleport 3", "unknown word 'teleport'; expected one of: forward, backward"),
        ("ther_and_back", "did you mean 'there_and_back'"),
        ("forward", "'forward' has 0 numbers after it; expected one number"),
        ("forward 1 2", "'forward' has 2 numbers after it; expected one number"),
        ("orbit 1 2 3", "'orbit' has 3 numbers after it; expected degrees and perhaps a distance"),
        ("yaw ninety", "found 'ninety'; expected degrees after 'yaw'"),
        ("yaw 0.5d", "found '0.5d'; expected degrees after 'yaw'"),
        ("forward nan", "found 'nan', which is not finite; expected a distance"),
        ("forward infd", "found 'inf', which is not finite"),
        ("yaw nan", "found 'nan', which is not finite"),
        ("forward 0.5d", "needs the depth of the scene"),
        ("orbit 40", "needs the depth of the scene"),
        ("orbit 40 -1", "the distance to orbit at is -1; expected a positive number"),
        ("yaw 9 @", "found ''; expected a weight after '@'"),
        ("yaw 9 @ -1", "the weight is -1; expected a positive number"),
        ("yaw 9 @ nan", "found 'nan', which is not finite"),
        ("back", "there is nothing to retrace"),
        ("yaw 9; back; back", r"step 3 \('back'\): there is nothing to retrace"),
        ("pause 2", "'pause' takes no number; to give it more frames write 'pause @ 2'"),
        ("pause & yaw 9", "'pause' must stand alone"),
        ("yaw 9 & back", "'back' must stand alone"),
        ("yaw 9 & smooth", "'smooth' must stand alone"),
        ("yaw 9 &", "a move is missing"),
        ("@ 2", "a move is missing"),
        ("orbit 9 1 & forward 1", "with 'orbit' only up, down, pitch, roll and zoom"),
        ("orbit 9 1 & orbit 9 1", "with 'orbit' only up, down, pitch, roll and zoom"),
        ("there_and_back @ 2", "'there_and_back' must stand alone"),
        ("orbit x-1", "has scale -1; expected a positive number"),
        ("orbit xtwo", "found 'two'; expected a scale"),
    ],
)
def test_every_mistake_is_one_sentence(text, message):
    with pytest.raises(UserError, match=message):
        trajectory_text.read(text)


@pytest.mark.parametrize("depth", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scene_depth_must_be_positive(depth):
    with pytest.raises(UserError, match="the scene depth is"):
        trajectory_text.read("forward 1", scene_depth=depth)
