"""What makes data: renderers of Doom and MiniWorld, and the held-out set of their clips."""
