"""The protocols: what is measured of a video, of a memory alone, and of the heads."""
