"""What a run writes down about itself."""

import datetime
import errno
import json

import numpy as np
import pytest
from tensorboardX import event_file_writer
from tensorboardX.proto import event_pb2

from mirage_jax.errors import UserError
from mirage_jax.training.measures import metrics


def events(folder):
    """What TensorBoard files hold, in the order of their steps; each record is length, checksum, bytes, checksum."""
    found = []
    for path in sorted((folder / "events").glob("*tfevents*")):
        content = path.read_bytes()
        while content:
            size = int.from_bytes(content[:8], "little")
            found.append(event_pb2.Event.FromString(content[12 : 12 + size]))
            content = content[16 + size :]
    return found


def test_tensorboard_gets_every_value_and_picture_and_hears_of_a_new_start(tmp_path):
    writer = metrics.MetricWriter(tmp_path, first_step=0)
    writer.write(1, {"loss": 0.5, "learning_rate/side": 2.0})
    writer.write(2, {"loss": 0.25})
    writer.pictures(2, {"preview": np.full((4, 6, 3), 7, np.uint8)})
    writer.close()
    metrics.MetricWriter(tmp_path, first_step=1).close()

    found = events(tmp_path)
    values = [(e.step, value) for e in found for value in e.summary.value]
    scalars = {(step, v.tag): v.simple_value for step, v in values if v.HasField("simple_value")}
    assert scalars == {(1, "loss"): 0.5, (1, "learning_rate/side"): 2.0, (2, "loss"): 0.25}
    pictures = [(step, v.tag, v.image.height, v.image.width) for step, v in values if v.HasField("image")]
    assert pictures == [(2, "preview", 4, 6)]
    starts = [e.step for e in found if e.session_log.status == event_pb2.SessionLog.START]
    assert sorted(starts) == [1, 2]  # TensorBoard drops what has these steps or later ones
    assert [row["step"] for row in metrics.rows(tmp_path / "losses.jsonl")] == [1]


def test_a_disk_that_fills_up_under_the_tensorboard_file_is_one_sentence_and_no_endless_wait(tmp_path, monkeypatch):
    writer = metrics.MetricWriter(tmp_path, first_step=0)

    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(event_file_writer.EventsWriter, "flush", full)
    for step in range(1, 40):  # more than any queue takes
        with pytest.raises(UserError, match="the disk is full"):
            writer.write(step, {"loss": 1.0})


def test_goodput_counts_the_steps_that_are_kept_and_all_the_time_since_the_first_start(tmp_path):
    def written(step, seconds):
        values = {"loss": 1.0, "productive_seconds": seconds}
        writer = metrics.MetricWriter(tmp_path, first_step=step - 1)
        writer.write(step, values)
        writer.close()

    written(1, 30.0)
    written(2, 100.0)  # killed after it
    path = tmp_path / "starts.jsonl"
    first, *later = metrics.rows(path)
    first["time"] = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=1e6)).isoformat()
    path.write_text("".join(json.dumps(row) + "\n" for row in (first, *later)))
    written(2, 50.0)
    rows = metrics.rows(tmp_path / "losses.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    assert rows[-1]["goodput"] == pytest.approx(80.0 / 1e6, rel=0.01)
