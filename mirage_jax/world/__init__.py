"""Worlds: `init` from an image, `segment` by segment, or a whole `rollout` in one scan."""

from mirage_jax.models.config import WRITES
from mirage_jax.world.config import DEPTH_SOURCES, MEMORIES, WorldConfig, full_capacity
from mirage_jax.world.segment import Diagnostics, SegmentOutput, prepare, rollout, segment
from mirage_jax.world.stages import Given
from mirage_jax.world.state import RolloutState, init, observe

__all__ = [
    "DEPTH_SOURCES",
    "MEMORIES",
    "WRITES",
    "Diagnostics",
    "Given",
    "RolloutState",
    "SegmentOutput",
    "WorldConfig",
    "full_capacity",
    "init",
    "observe",
    "prepare",
    "rollout",
    "segment",
]
