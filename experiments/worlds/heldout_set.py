"""The held-out set for evaluation: the same clips everywhere, built by one command and checked by checksum.

    data/evaluation/closed_loop/part-0000      of Doom's test maps        the groups are splits of one data set:
    data/evaluation/closed_loop/part-0001      of MiniWorld's test rooms  `data.load_source(folder, "closed_loop")`

`evaluation_set.json` in this package names every clip (map, seed, kind of path) with checksums, so building renders
exactly these and draws nothing anew. A clip of Doom must come out the same to the bit in its frames and masks, which
are integers of a software renderer; its depth and poses are floating point, whose last digit may differ between
processors, and pass within tolerances.
Rooms are drawn by the OpenGL of the machine, which may round colours and edges otherwise: where their checksum differs,
a sketch of the clip (small pictures and depths, poses, share of moving pixels) must agree within tolerances.
What was built is also written to `checksums.json` in the folder, against which every later look must be exact.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from experiments.worlds import batch, builder, fingerprint
from experiments.worlds.doom import jobs as doom
from experiments.worlds.doom import splits
from experiments.worlds.miniworld import jobs as rooms
from mirage_jax import data, io
from mirage_jax.data.clip import PosedClip
from mirage_jax.errors import UserError

VERSION = 2
LISTING = pathlib.Path(__file__).parent / "evaluation_set.json"
SIZE = 128
_SEED = 20_260  # of what is drawn when the set is chosen; no other data set has it
_BUILT = "checksums.json"  # beside the groups, of what was built
_DRAWS = 6  # times that a job is given to the renderer, which tries many places each time


@dataclasses.dataclass(frozen=True)
class Plan:
    """How many clips of one group come from where.

    Attributes:
      doom: clips of Doom's test maps.
      rooms: motion class -> clips of MiniWorld.
      kinds: of path, spread evenly.
      frames: of a clip.
    """

    doom: int
    rooms: dict[str, int]
    kinds: tuple[str, ...]
    frames: int = 65


PLANS = {
    "closed_loop": Plan(32, {"none": 16, "1-5": 16}, ("closed_loop",)),
    "there_and_back": Plan(32, {"none": 16, "1-5": 16}, ("there_and_back",)),
    "look_away": Plan(32, {"none": 32}, ("look_away",)),
    "long": Plan(30, {"none": 30}, ("closed_loop", "there_and_back"), 257),
    "motion": Plan(0, {"none": 60, "1-5": 60, "5-15": 60, "15+": 60}, ("look_away",)),
}
"""Group -> its clips. `motion`: objects that are in view at the start and the end and out of view between."""


@dataclasses.dataclass(frozen=True)
class Item:
    """One clip of the listing: where it comes from, and what it must be."""

    group: str
    source: str  # of the clip; says map or split, seed and kind
    frames: int
    size: int

    @property
    def of_doom(self) -> bool:
        """Whether it is of Doom, and so the same to the bit on every machine."""
        return self.source.startswith("doom/")


@dataclasses.dataclass(frozen=True)
class Agreement:
    """What `verify` found: clips that are the same to the bit, and clips that agree within tolerances."""

    exact: int
    close: int


def items(listing: dict[str, Any]) -> list[Item]:
    """The clips that a listing names, in the order in which they are stored."""
    return [Item(group, source, of["frames"], of["size"]) for group, source, of in _entries(listing)]


def _entries(listing: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for group, clips in listing["groups"].items():
        yield from ((group, source, values) for source, values in clips.items())


def load_listing(path: pathlib.Path = LISTING) -> dict[str, Any]:
    """Reads which clips make the set.

    Raises:
      UserError: if the file is missing, damaged or of another version.
    """
    try:
        listing = json.loads(path.read_text())
        version, groups = listing["version"], listing["groups"]
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing: it names the clips of the evaluation set and lies in the package"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if version != VERSION or not isinstance(groups, dict):
        raise UserError(f"{path} is version {version} of the evaluation set, this program builds version {VERSION}")
    return listing


def choose(
    path: pathlib.Path,
    plans: dict[str, Plan] = PLANS,
    *,
    size: int = SIZE,
    workers: int = 2,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Chooses the clips of a new set, and writes the listing with their checksums.

    Raises:
      UserError: if a place in the set could not be filled.
    """
    groups: dict[str, dict[str, Any]] = {}
    for number, (group, plan) in enumerate(plans.items()):
        common = {"seed": _SEED + number, "frames": plan.frames, "size": size}
        maps = doom.jobs("test", plan.doom, kinds=plan.kinds, **common) if plan.doom else []
        listed = [
            dataclasses.replace(job, index=1000 * place + job.index)
            for place, (motion, count) in enumerate(plan.rooms.items())
            for job in rooms.jobs("test", count, kinds=plan.kinds, motions=(motion,), **common)
        ]
        chosen: dict[str, Any] = {}
        for clip in itertools.chain(_filled(maps, group, workers), _filled(listed, group, workers)):
            progress(clip.source)
            chosen[clip.source] = fingerprint.of(clip)
        # The game that found a clip was running before: what is recorded is what building will render.
        found_by_game = [item for source in chosen if (item := Item(group, source, plan.frames, size)).of_doom]
        rendered = batch.in_processes(render_item, found_by_game, workers) if found_by_game else ()
        groups[group] = chosen | {clip.source: fingerprint.of(clip) for clip in rendered}
    listing = {"version": VERSION, "groups": groups}
    io.write_text(path, _as_text(listing))
    return listing


def _filled(listed: Sequence[batch.Job], group: str, workers: int) -> Iterator[PosedClip]:
    """A clip for every job; a job for which none came out usable draws anew, a few times.

    Raises:
      UserError: if there still is none.
    """
    rejected: collections.Counter[str] = collections.Counter()
    for _ in range(_DRAWS):
        again = []
        for rendered in batch.render_all(listed, workers=workers) if listed else ():
            if rendered.clip is not None:
                yield rendered.clip
            else:
                rejected.update(rendered.rejected)
                again.append(dataclasses.replace(rendered.job, index=rendered.job.index + 1_000_000))
        listed = again
    if listed:
        raise UserError(f"{group}: no clip for {listed[0]} and {len(listed) - 1} others: {dict(rejected)}")


def _as_text(listing: dict[str, Any]) -> str:
    """JSON with a line for every clip, so that a change shows in a diff."""
    groups = ",\n".join(
        f"  {json.dumps(group)}: {{\n"
        + ",\n".join(f"   {json.dumps(source)}: {json.dumps(values)}" for source, values in clips.items())
        + "\n  }"
        for group, clips in listing["groups"].items()
    )
    return f'{{\n "version": {listing["version"]},\n "groups": {{\n{groups}\n }}\n}}\n'


def build(
    out: str | pathlib.Path,
    listing: dict[str, Any],
    *,
    workers: int = 2,
    progress: Callable[[str], None] = lambda name: None,
) -> Agreement:
    """Renders the clips of a listing that are not there yet, part by part, and checks them all.

    Raises:
      UserError: if a clip cannot be rendered here, or differs from the listing.
    """
    out = pathlib.Path(out)
    for group, of_doom in itertools.product(listing["groups"], (True, False)):
        part = [item for item in items(listing) if item.group == group and item.of_doom == of_doom]
        number = 0 if of_doom else 1
        if part and not (out / group / f"part-{number:04d}").exists():
            _record(out, group, _write(out, part, number, workers, progress))
    return verify(out, listing)


def _record(out: pathlib.Path, group: str, clips: dict[str, Any]) -> None:
    """Adds what was built to the folder's own list."""
    built = load_listing(out / _BUILT)["groups"] if (out / _BUILT).exists() else {}
    io.write_text(out / _BUILT, _as_text({"version": VERSION, "groups": built | {group: built.get(group, {}) | clips}}))


def _write(
    out: pathlib.Path, part: Sequence[Item], number: int, workers: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Renders one part; gives the checksums of its clips."""
    first, found = part[0], {}
    world = doom.WORLD if first.of_doom else rooms.WORLD

    def clips(_scratch: pathlib.Path) -> Iterator[tuple[str, PosedClip]]:
        for index, (item, clip) in enumerate(zip(part, batch.in_processes(render_item, part, workers), strict=True)):
            found[item.source] = fingerprint.of(clip)
            progress(item.source)
            yield f"{index:06d}", clip

    builder.write_part(
        out,
        first.group,
        number,
        world.name,
        (first.frames, first.size, first.size),
        clips,
        lambda seconds: {"version": VERSION, "clips": len(part), "seconds": round(seconds, 1)},
        world.licence,
        "Held-out clips for evaluation.",
        world.objects,
    )
    return found


def render_item(item: Item) -> PosedClip:
    """Renders one clip of the listing.

    Raises:
      UserError: if it does not come out usable here, or its map is not one of the test split.
    """
    _, place, seed, *words = item.source.split("/")
    common = {"index": 0, "seed": 0, "frames": item.frames, "size": item.size}
    if item.of_doom:
        kind, *monsters = words
        if place not in splits.maps("test"):
            raise UserError(f"{item.source}: its map is not one of the test split")
        doom.close()  # a game that goes on shows some animations of monsters at another tic, as the clips before were
        job, venue = doom.Job(split="test", map_name=place, kind=kind, moving=bool(monsters), **common), place
    else:
        motion, venue = words
        job = rooms.Job(split=place, kinds=(venue,), motion=motion.removeprefix("motion-"), **common)
    try:
        return job.render(venue, int(seed.removeprefix("seed")))[0]
    except batch.RejectedError as error:
        raise UserError(f"{item.source} does not come out usable on this machine: {error}") from error


def _found(folder: pathlib.Path, listing: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Checksums of the clips in a folder, by group and name.

    Raises:
      UserError: if a group is missing or cannot be read.
    """
    groups: dict[str, dict[str, Any]] = {}
    for group in listing["groups"]:
        source = data.load_source(folder, group)
        groups[group] = {clip.source: fingerprint.of(clip) for clip in map(source.clip, range(len(source)))}
    return groups


def verify(
    folder: str | pathlib.Path, listing: dict[str, Any] | None = None, groups: Sequence[str] | None = None
) -> Agreement:
    """Checks every clip of a built set against the package and against what was built.

    Args:
      folder: given to `build`.
      listing: of `load_listing`; the package's if None.
      groups: those to check; all if None, and names that the listing does not have are passed over.

    Returns:
      How many clips agree to the bit, and how many, of rooms, within tolerances.

    Raises:
      UserError: naming the first clip that is missing, or differs.
    """
    folder = pathlib.Path(folder)
    listing = load_listing() if listing is None else listing
    if groups is not None:
        wanted_groups = {group: clips for group, clips in listing["groups"].items() if group in groups}
        listing = {**listing, "groups": wanted_groups}
    built = load_listing(folder / _BUILT)["groups"]
    counts: collections.Counter[str] = collections.Counter()
    found = _found(folder, listing)
    for group, source, wanted in _entries(listing):
        clip = found[group].get(source)
        if clip is None:
            raise UserError(f"{folder / group}: clip {source} is missing")
        if clip != built.get(group, {}).get(source):
            raise UserError(
                f"{folder / group}: clip {source} was changed since it was built; remove {folder} and build anew"
            )
        agreement, differs = fingerprint.compare(clip, wanted, exact_pixels=source.startswith("doom/"))
        if agreement is None:
            raise UserError(
                f"{folder / group}: clip {source} differs in its {differs} from version {VERSION} of the evaluation set"
            )
        counts[agreement] += 1
    extra = next(
        (source for group, clips in found.items() for source in clips if source not in listing["groups"][group]), None
    )
    if extra is not None:
        raise UserError(f"{folder}: clip {extra} does not belong to version {VERSION} of the evaluation set")
    return Agreement(counts["exact"], counts["close"])
