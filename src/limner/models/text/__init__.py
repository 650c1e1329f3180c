"""Text encoders: tokenizers, networks, and the weighting of prompts."""
