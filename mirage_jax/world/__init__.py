"""Worlds: `init` from an image, `segment` by segment, or a whole `rollout` in one scan."""

from mirage_jax.world.config import DEPTH_SOURCES, WorldConfig, bucket, full_capacity
from mirage_jax.world.frame_geometry import FrameGeometry, KnownGeometry
from mirage_jax.world.outputs import Diagnostics, SegmentOutput
from mirage_jax.world.recipe import DEFAULT, PAPER, RECIPES, RELEASE, Recipe
from mirage_jax.world.segment import prepare, rollout, segment
from mirage_jax.world.state import RolloutState, init, observe

__all__ = [
    "DEFAULT",
    "DEPTH_SOURCES",
    "PAPER",
    "RECIPES",
    "RELEASE",
    "Diagnostics",
    "FrameGeometry",
    "KnownGeometry",
    "Recipe",
    "RolloutState",
    "SegmentOutput",
    "WorldConfig",
    "bucket",
    "full_capacity",
    "init",
    "observe",
    "prepare",
    "rollout",
    "segment",
]
