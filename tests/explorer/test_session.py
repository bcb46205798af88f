"""Time: undo is exact to the bit, forks leave their parents alone, what was forgotten is made again."""

import numpy as np
import pytest

from experiments.explorer import snapshots
from experiments.explorer.engine import Settings
from experiments.explorer.mock import MockEngines
from experiments.explorer.motion import Keys, Motion, Stand
from experiments.explorer.session import Session, jpeg
from experiments.shared import world_pictures
from mirage_jax.errors import UserError
from mirage_jax.geometry import Camera
from tests.explorer.explorers import first

ENGINES = MockEngines()
MOTIONS = [Motion(forward=0.3), Motion(yaw=12.0), Motion(right=0.2, pitch=5.0), Motion(forward=-0.1, yaw=-40.0)]


def begun(folder, memory=2**30, disk=2**30):
    folder.mkdir(exist_ok=True)
    store = snapshots.Store(folder, memory, disk)
    session = Session("0" * 16, ENGINES, store)
    session.begin(*_start(folder))
    return session, store


def _start(folder):
    engine = ENGINES.get(Settings())
    first(folder)
    return engine, engine.picture(folder / "first.png", 0.0, 3)


def walked(session, steps):
    return [session.walk(MOTIONS[index % len(MOTIONS)], "")[0].number for index in range(steps)]


def bits(session, moment):
    state = session.state(moment)
    return {name: np.asarray(value).tobytes() for name, value in state.items()}, session.frames(moment).tobytes()


def test_undo_after_ten_steps_gives_the_same_bits(tmp_path):
    session, _ = begun(tmp_path)
    before = bits(session, session.cursor)
    walked(session, 10)
    after = bits(session, session.cursor)
    for _ in range(10):
        session.undo()
    assert session.cursor == 0 and bits(session, 0) == before
    with pytest.raises(UserError, match="begins"):
        session.undo()
    for _ in range(10):
        session.redo()
    assert bits(session, session.cursor) == after
    with pytest.raises(UserError, match="end of the branch"):
        session.redo()


def test_a_fork_leaves_its_parent_untouched(tmp_path):
    session, _ = begun(tmp_path)
    way = walked(session, 5)
    before = [bits(session, moment) for moment in way]
    session.jump(way[1])
    forked, _ = session.walk(Motion(yaw=-90.0), "")
    assert forked.parent == way[1] and len(session.branches) == 2
    assert session.way(session.branches[0].tip) == [0, *way]
    assert [bits(session, moment) for moment in way] == before
    assert bits(session, forked.number) != bits(session, way[2])
    session.switch(0)
    assert session.cursor == way[-1]
    session.fork(way[3])
    assert session.way(session.cursor) == [0, *way[:4]] and len(session.branches) == 3


def test_what_there_is_no_room_for_is_on_disk_or_made_again_bit_for_bit(tmp_path):
    session, store = begun(tmp_path)
    way = walked(session, 40)
    wanted = [bits(session, moment) for moment in way]
    size = store.get((session.name, 20)).nbytes
    small, tight = begun(tmp_path / "small", memory=3 * size, disk=8 * size)
    assert walked(small, 40) == way
    assert tight.held_bytes <= 4 * size and tight.file_bytes <= 12 * size
    assert sum(tight.get((small.name, moment)) is None for moment in way) > 20
    for moment in (39, 25, 3, 40, 1):
        assert bits(small, moment) == wanted[moment - 1]


def test_a_session_goes_on_in_another_run(tmp_path):
    session, _ = begun(tmp_path)
    walked(session, 6)
    session.jump(3)
    walked(session, 2)
    session.write(tmp_path / session.name)
    again = Session.read(tmp_path / session.name, session.name, MockEngines(), snapshots.Store(tmp_path, 2**30, 2**30))
    assert (again.cursor, again.branch) == (session.cursor, session.branch)
    assert {n: b.tip for n, b in again.branches.items()} == {n: b.tip for n, b in session.branches.items()}
    for moment in session.moments:
        assert bits(again, moment) == bits(session, moment)
    assert bits(again, again.walk(MOTIONS[0], "")[0].number) == bits(session, session.walk(MOTIONS[0], "")[0].number)


def test_a_session_that_goes_on_has_the_colours_of_its_map(tmp_path, monkeypatch):
    """Each engine writes what it knows of them beside the session, and reads it again."""
    session, store = begun(tmp_path)
    session.begin(*_start(tmp_path))
    engine, written, read = type(session.world.engine), [], []
    monkeypatch.setattr(engine, "save_colours", lambda self, path: written.append(path))
    monkeypatch.setattr(engine, "load_colours", lambda self, path: read.append(path))
    session.write(tmp_path / session.name)
    assert Session.read(tmp_path / session.name, session.name, ENGINES, store) is not None
    assert read == written and len(set(read)) == 2


def test_a_session_of_another_model_is_left_alone(tmp_path):
    session, _ = begun(tmp_path)
    session.write(tmp_path / session.name)
    other = MockEngines()
    other.digest = "another"
    store = snapshots.Store(tmp_path, 2**30, 2**30)
    assert Session.read(tmp_path / session.name, session.name, other, store) is None
    assert (tmp_path / session.name / "session.json").exists()


def test_a_second_world_keeps_the_first(tmp_path):
    session, _ = begun(tmp_path)
    walked(session, 2)
    session.begin(*_start(tmp_path))
    assert [branch.name for branch in session.branches.values()] == ["world 1", "world 2"]
    assert session.way(session.cursor) == [session.cursor]
    session.jump(1)
    assert session.branch == 0


def test_the_same_picture_gives_the_same_bytes():
    picture = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    assert jpeg(picture) == jpeg(picture.copy())


def test_walking_goes_where_one_looks_and_stays_level():
    lens = np.array([[100.0, 0, 64], [0, 100, 64], [0, 0, 1]], np.float32)
    stand = Stand(Camera(lens, np.eye(4, dtype=np.float32), 128, 128))
    stand, cameras = stand.moved(Motion(yaw=90.0, pitch=30.0), 4)
    assert len(cameras) == 4
    np.testing.assert_allclose(cameras.cam2world[-1][:3, 2], [np.cos(np.pi / 6), -0.5, 0], atol=1e-6)
    stand, cameras = stand.moved(Motion(forward=2.0), 4)
    np.testing.assert_allclose(cameras.cam2world[:, :3, 3], [[0.5, 0, 0], [1, 0, 0], [1.5, 0, 0], [2, 0, 0]], atol=1e-6)
    stand, cameras = stand.moved(Motion(pitch=500.0), 4)
    np.testing.assert_allclose(np.degrees(stand.rig.pitch), 70.0, atol=1e-4)


def test_keys_that_come_faster_than_segments_are_one_motion():
    keys = Keys()
    for _ in range(50):
        keys.move(1, 0, 0, 0, 0, 1.0, True)
        keys.move(0, 0, 0, 0, 0, 1.0, False)
        keys.look(1.0, 0.0)
    motion = keys.take(1.0, 5.0)
    assert motion.forward == pytest.approx(1.5) and motion.yaw == pytest.approx(50.0)
    assert not keys.wanted and not keys.take(1.0, 5.0)
    keys.move(0, 0, 0, 1, 0, 1.0, True)
    assert keys.take(0.5, 5.0).yaw == keys.take(0.5, 5.0).yaw > 0  # held: again and again
    keys.release()
    assert not keys.wanted


def test_a_fork_is_named_by_its_place_in_the_row(tmp_path):
    session, _ = begun(tmp_path)
    walked(session, 4)
    session.jump(2)
    walked(session, 1)
    session.fork(session.cursor)
    assert [branch.name for branch in session.branches.values()] == ["world 1", "fork at 3", "fork at 4"]


def test_colours_are_written_and_read_and_known_ones_stay(tmp_path):
    k, pose = np.array([[4, 0, 4], [0, 4, 4], [0, 0, 1]], np.float32), np.eye(4, dtype=np.float32)
    points = np.array([[0.0, 0.0, 2.0], [0.3, 0.0, 2.0]], np.float32)
    charts = []
    for colour, seen in ((10, points[:1]), (90, points)):
        charts.append(world_pictures.Chart())
        charts[-1].learn(seen, np.full((1, 8, 8, 3), colour, np.uint8), Camera(k[None], pose[None], 8, 8), (8, 8))
    charts[1].save(tmp_path / "colours0.safetensors")
    charts[0].load(tmp_path / "colours0.safetensors")
    colours, known = charts[0].colours(points)
    assert known.all() and colours[:, 0].tolist() == [10, 90]
    (tmp_path / "colours0.safetensors").write_bytes(b"no colours")
    with pytest.raises(UserError, match="colours of points"):
        charts[0].load(tmp_path / "colours0.safetensors")
