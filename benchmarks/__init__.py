"""Benchmarks; the docstring of each module describes its measurements."""
