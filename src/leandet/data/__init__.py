"""Labelled images: read, check, convert, draw, augment."""
