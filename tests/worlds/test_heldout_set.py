"""The held-out set: built from a listing, the same every time, and damage has a name."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest

from experiments.worlds import batch, builder, heldout_set
from experiments.worlds.doom import splits
from experiments.worlds.miniworld import jobs as rooms
from mirage_jax import data
from mirage_jax.errors import UserError

PLANS = {
    "closed_loop": heldout_set.Plan(1, {"none": 1}, ("closed_loop",), 9),
    "motion": heldout_set.Plan(0, {"1-5": 1}, ("orbit",), 9),
}


@pytest.fixture(scope="module")
def tiny(rendering_here, tmp_path_factory):
    try:
        rooms.canvases(32)
    except UserError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("heldout")
    with rendering_here():
        listing = heldout_set.choose(folder / "listing.json", PLANS, size=32, workers=1)
        assert heldout_set.load_listing(folder / "listing.json") == listing
        return listing, folder / "set", heldout_set.build(folder / "set", listing, workers=1)


def test_building_gives_the_recorded_clips_to_the_bit(tiny):
    listing, folder, agreement = tiny
    assert agreement == heldout_set.Agreement(exact=3, close=0) == heldout_set.verify(folder, listing)
    (kept,) = {path for path in (folder / "motion").rglob("*.array_record*")}
    before = kept.stat().st_mtime_ns
    assert heldout_set.build(folder, listing, workers=1) == agreement and kept.stat().st_mtime_ns == before


def _with_clip(folder, group, number, change):
    """Stores a group's part anew, with its clip changed."""
    index = {0: 0, 1: -1}[number]
    source = data.load_source(folder, group)
    clip = source.clip(range(len(source))[index])
    part = folder / group / f"part-{number:04d}"
    shutil.rmtree(part)
    shape, objects = clip.frames.shape[:3], 0 if clip.tracks is None else clip.tracks.shape[1]
    name = "doom" if clip.source.startswith("doom") else "miniworld"
    clips = [("000000", dataclasses.replace(clip, **change(clip)))]
    builder.write_part(folder, group, number, name, shape, lambda _: clips, lambda _: {}, "", "", objects=objects)
    return clip.source


def flipped(clip):
    frames = clip.frames.copy()
    frames[3, 5, 7, 1] ^= 1
    return {"frames": frames}


@pytest.mark.parametrize(("group", "number"), [("closed_loop", 0), ("closed_loop", 1), ("motion", 1)])
def test_a_flipped_pixel_is_named(tiny, tmp_path, group, number):
    listing, folder, _ = tiny
    shutil.copytree(folder, tmp_path / "set")
    name = _with_clip(tmp_path / "set", group, number, flipped)
    with pytest.raises(UserError, match=f"{name} was changed since it was built"):
        heldout_set.verify(tmp_path / "set", listing)


def _accepted_as_built(folder, listing):
    """As if this machine had rendered what lies there."""
    built = {"version": heldout_set.VERSION, "groups": heldout_set._found(folder, listing)}
    (folder / "checksums.json").write_text(json.dumps(built))
    return heldout_set.verify(folder, listing)


def test_other_rendering_passes_for_rooms_only_and_only_if_it_is_small(tiny, tmp_path):
    listing, folder, _ = tiny
    copies = [shutil.copytree(folder, tmp_path / str(i)) for i in range(4)]
    _with_clip(copies[0], "motion", 1, lambda clip: {"frames": clip.frames ^ np.uint8(1)})
    assert _accepted_as_built(copies[0], listing) == heldout_set.Agreement(exact=2, close=1)
    name = _with_clip(copies[1], "closed_loop", 0, flipped)
    with pytest.raises(UserError, match=f"{name} differs in its pixels"):
        _accepted_as_built(copies[1], listing)
    name = _with_clip(copies[2], "motion", 1, lambda clip: {"frames": clip.frames[:, ::-1].copy()})
    with pytest.raises(UserError, match=f"{name} differs in its pixels"):
        _accepted_as_built(copies[2], listing)
    name = _with_clip(copies[3], "closed_loop", 0, lambda clip: {"depth": clip.depth * np.float32(1.1)})
    with pytest.raises(UserError, match=f"{name} differs in its depth or poses"):
        _accepted_as_built(copies[3], listing)


def test_clips_that_are_missing_or_too_many_are_named(tiny):
    listing, folder, _ = tiny
    more, less = copy.deepcopy(listing), copy.deepcopy(listing)
    more["groups"]["motion"]["miniworld/test/seed1/motion-1-5/orbit"] = {}
    with pytest.raises(UserError, match="seed1/motion-1-5/orbit is missing"):
        heldout_set.verify(folder, more)
    (name,) = less["groups"]["motion"]
    less["groups"]["motion"] = {}
    with pytest.raises(UserError, match=f"{name} does not belong"):
        heldout_set.verify(folder, less)


def test_a_group_is_checked_without_the_others(tiny, tmp_path):
    listing, folder, _ = tiny
    shutil.copytree(folder, tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "motion")
    with pytest.raises(UserError, match="motion"):
        heldout_set.verify(tmp_path / "set", listing)
    assert heldout_set.verify(tmp_path / "set", listing, groups=["closed_loop"]) == heldout_set.Agreement(
        exact=2, close=0
    )


def test_only_maps_of_the_test_split_are_rendered():
    for map_name in ("MAP01", "MAP19", *sorted(splits.RESERVED)):
        with pytest.raises(UserError, match="not one of the test split"):
            heldout_set.render_item(heldout_set.Item("closed_loop", f"doom/{map_name}/seed1/loop", 9, 32))


def test_a_listing_of_another_version_is_refused(tmp_path):
    (tmp_path / "listing.json").write_text('{"version": 99, "groups": {}}')
    with pytest.raises(UserError, match="version 99"):
        heldout_set.load_listing(tmp_path / "listing.json")
    with pytest.raises(UserError, match="missing"):
        heldout_set.load_listing(tmp_path / "none.json")


def test_the_plans_have_sixty_clips_for_every_headline():
    for group, plan in heldout_set.PLANS.items():
        assert plan.doom + sum(plan.rooms.values()) >= 60, group
        assert plan.frames % 16 == 1
    assert all(count >= 60 for count in heldout_set.PLANS["motion"].rooms.values())


@dataclasses.dataclass(frozen=True)
class _Job:
    index: int


@pytest.fixture
def renderer(monkeypatch):
    """Sets a renderer for whose jobs a clip comes out where a function says so of the index."""

    def use(usable):
        def render_all(listed, *, workers):
            del workers
            for job in listed:
                clip = f"clip {job.index}" if usable(job.index) else None
                yield batch.Rendered(job, clip, {}, {} if clip else {"too dark": 1})

        monkeypatch.setattr(batch, "render_all", render_all)

    return use


def test_a_job_without_a_usable_clip_draws_anew(renderer):
    renderer(lambda index: index in (0, 2_000_001))
    assert list(heldout_set._filled([_Job(0), _Job(1)], "long", 1)) == ["clip 0", "clip 2000001"]


def test_a_place_that_nothing_fills_is_named(renderer):
    renderer(lambda index: index == 0)
    with pytest.raises(UserError, match=r"^long: no clip for _Job\(index=6000001\) and 0 others: {'too dark': 6}$"):
        list(heldout_set._filled([_Job(0), _Job(1)], "long", 1))
