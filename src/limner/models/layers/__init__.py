"""Layers that are letter for letter the same in several families, and reading a configuration off tensor shapes."""
