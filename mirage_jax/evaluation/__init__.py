"""How good a generated video is: metrics per frame, protocols over camera paths, intervals over clips."""
