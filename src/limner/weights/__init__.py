"""Weights: checkpoint headers and readers, patches, and the operations that networks are built from."""
