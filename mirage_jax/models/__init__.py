"""Networks: the video autoencoder, the Wan2.2 diffusion transformer with its side branch, heads on latents, LoRA."""
