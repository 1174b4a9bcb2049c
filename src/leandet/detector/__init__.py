"""The detector: backbone taps to neck, head and predictions."""
