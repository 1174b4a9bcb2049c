"""Smaller networks that do the same: channels cut out exactly, weights made sparse."""
