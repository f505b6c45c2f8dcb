"""Use of a trained run: evaluate, extract, decode and show."""
