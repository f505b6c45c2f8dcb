"""Experiment trackers, which get metrics besides the run record. TensorBoard is the default.

A tracker never decides whether a run succeeds: squeeze leaves out one that cannot start, with a
warning, reports a failure once, and does not wait for one that hangs.
"""
