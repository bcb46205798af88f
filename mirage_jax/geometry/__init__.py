"""Cameras, lifting and projection, trajectories, pose files."""

from mirage_jax.geometry.camera import Camera, cell_centres, lift, project, ray_directions, rays, rigid_inverse, rotate

__all__ = ["Camera", "cell_centres", "lift", "project", "ray_directions", "rays", "rigid_inverse", "rotate"]
