"""Figures of arXiv 2606.09828 (version 2, tables 1 to 5 and the efficiency figure), to be printed beside ours.

They were measured on other data (RealEstate10K at 704x1280) and an H100, by a model of 5 billion parameters: only the
relation between rows of one table can be compared with ours, not the values.
"""

from __future__ import annotations

SOURCE = "arXiv 2606.09828"

REALESTATE10K = {
    "columns": ("psnr", "ssim", "lpips", "psnr_c", "ssim_c", "lpips_c"),
    "Mirage (latent)": (18.38, 0.779, 0.250, 20.05, 0.825, 0.228),
    "Spatia (RGB)": (18.58, 0.646, 0.254, 19.38, 0.579, 0.213),
    "Voyager (RGB)": (17.79, 0.636, 0.297, 17.66, 0.540, 0.380),
    "ViewCrafter (RGB)": (15.78, 0.580, 0.396, 14.79, 0.481, 0.365),
}
"""Protocols 1 and 2."""

READOUT_SECONDS_PER_FRAME = {
    "Mirage (latent)": (0.79, 0.25, 0.25, 0.25, 0.25),
    "GEN3C (RGB)": (2.80, 2.88, 2.88, 2.87, 2.90),
    "Spatia (RGB)": (4.03, 5.03, 6.32, 6.00, 7.63),
    "VMem (RGB)": (4.07, 6.19, 6.79, 7.24, 7.25),
}
"""By segment."""

CACHE_MIB = {
    "Mirage (latent)": (0.46, 0.90, 1.36, 1.80, 2.25),
    "GEN3C (RGB)": (22.3, 43.8, 43.8, 43.8, 43.8),
    "Spatia (RGB)": (23.4, 47.0, 73.2, 98.4, 124.0),
    "VMem (RGB)": (18.8, 33.8, 48.8, 63.8, 78.8),
}
"""By segment."""
