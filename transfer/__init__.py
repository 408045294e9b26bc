"""Reuse: what of a pretrained backbone helps with few labels."""
