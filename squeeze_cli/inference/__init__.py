"""A trained run: evaluate it, extract with it, decode by it, show what it predicts."""
