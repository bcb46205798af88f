"""Cameras, lifting and projection, trajectories, pose files."""

from mirage_jax.geometry import pose_files, se3, trajectory
from mirage_jax.geometry.camera import (
    Camera,
    cell_centres,
    concatenate,
    lift,
    project,
    ray_directions,
    rays,
    rigid_inverse,
    rotate,
)
from mirage_jax.geometry.crop import centre_cropped, fit_view

__all__ = [
    "Camera",
    "cell_centres",
    "centre_cropped",
    "concatenate",
    "fit_view",
    "lift",
    "pose_files",
    "project",
    "ray_directions",
    "rays",
    "rigid_inverse",
    "rotate",
    "se3",
    "trajectory",
]
