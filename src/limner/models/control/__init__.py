"""Controls: networks that tell a diffusion model what to follow beside the text. The folder is the registry."""
