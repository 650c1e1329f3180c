"""Quantization with a model at work: inputs measured, layers chosen by what they cost the output, quality reported."""
