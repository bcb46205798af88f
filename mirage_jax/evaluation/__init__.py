"""How good a world is: metrics per frame, what comes back in a video, a memory alone, the heads."""
