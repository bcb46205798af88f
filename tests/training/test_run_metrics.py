"""What a run writes down about itself."""

import datetime
import errno
import json

import ml_collections
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


def test_goodput_is_the_share_of_the_time_since_the_first_start_that_counts(tmp_path):
    now = datetime.datetime.now(datetime.UTC)
    times = [(now - datetime.timedelta(seconds=before)).isoformat() for before in (400, 50)]
    lines = [{"time": time} for time in times]
    (tmp_path / "starts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    kept = [{"step": 1, "seconds": 60.0}, {"step": 2, "seconds": 40.0}]
    (tmp_path / "losses.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    found = metrics.record(ml_collections.ConfigDict(), 1, tmp_path)
    assert found["restarts"] == 1 and 0.2 < found["goodput"] <= 0.25
