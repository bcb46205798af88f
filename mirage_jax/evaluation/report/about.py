"""What the report says of each protocol, and in which order it shows them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a protocol is shown.

    Attributes:
      title, about: for someone who has not seen the code.
      metrics: columns of its table.
      primary: the metric that says which clips are the worst; the first that exists counts.
      videos: kind of video that shows its failures; None: nothing to see.
    """

    title: str
    about: str
    metrics: tuple[str, ...]
    primary: tuple[str, ...]
    videos: str | None = "rollout"


_OBJECTS = (
    *("background_psnr", "background_lpips", "object_psnr", "object_lpips"),
    *("detected", "found", "centroid_error", "look", "ghosting"),
)
PHASES = {
    "visible": "Until an object leaves the view",
    "disappeared": "While it is away",
    "reappeared": "From its return on",
}

PROTOCOLS = {
    "reconstruction": Protocol(
        "Reconstruction",
        "The first frame and the true cameras are given; every later frame is compared with the true frame. `vae` is "
        "the truth coded and decoded, the ceiling of every method that ends in this decoder.",
        ("psnr", "ssim", "lpips"),
        ("psnr",),
    ),
    "closed_loop": Protocol(
        "Closed loop",
        "The camera comes back to where it began: that frame against the first one (`_c`). Where the path returns "
        "the way it came, also every frame against its return (`_there_and_back`). A video that never changes scores "
        "well here: read it together with reconstruction.",
        ("psnr_c", "ssim_c", "lpips_c", "psnr_there_and_back", "ssim_there_and_back", "lpips_there_and_back"),
        ("psnr_c", "psnr_there_and_back"),
    ),
    "revisit": Protocol(
        "Revisit memory",
        "How much more alike are two views of one place than two unrelated views the same time apart (`_gain`), and as "
        "a part of what views a moment apart reach (`nmr_`: 1 is perfect memory, 0 none; R2M-Bench). A still video "
        "gains nothing.",
        ("nmr_psnr", "nmr_ssim", "nmr_lpips", "psnr_gain", "ssim_gain", "lpips_gain", "psnr_range"),
        ("psnr_gain",),
    ),
    "camera_control": Protocol(
        "Camera control",
        "Each frame is aligned with the true render, whose depth is known: the motion between the two is the error of "
        "the camera. Medians over frames in which it is `found`; `worldscore`"
        " counts the others as 0; `vae` is the floor.",
        ("rotation", "translation", "relative_translation", "found", "worldscore"),
        ("worldscore",),
    ),
    "objects": Protocol(
        "Moving objects",
        "Background and moving objects apart. `detected`: the object is where it is now, not where it was; `found`: "
        "there or near by, `centroid_error` object sizes away; `look`: its LPIPS; `ghosting`: an earlier appearance is "
        "left where no object is any more. What needs the scene without objects is left out where data do not have it.",
        _OBJECTS,
        ("object_psnr", "background_psnr"),
    ),
    "returns": Protocol(
        "Coming back",
        "All frames but those of the last segment are given with their true depth; the last segment is generated. "
        "Scored on frames of which half or more was seen before and was out of sight for a segment (`_revisit`).",
        ("psnr_revisit", "ssim_revisit", "lpips_revisit", "psnr_returned_cells", "psnr"),
        ("psnr_revisit",),
        "returns",
    ),
    "memory": Protocol(
        "Memory alone",
        "No generator: true frames are written, and read at true later poses. `avoidable_holes` is the share of cells "
        "whose surface was written that show nothing; `feature_error` is in units of the variance of the true latents.",
        ("avoidable_holes", "visible", "feature_error", "decode_psnr", "decode_psnr_visible", "decode_lpips"),
        ("decode_psnr",),
        "memory",
    ),
    "heads": Protocol(
        "Depth and masks on latents",
        "The heads against the truth, on tokens of true frames.",
        ("depth_median_relative_error", "depth_within_15_percent", "actor_iou", "sky_iou"),
        ("depth_median_relative_error",),
        None,
    ),
}
