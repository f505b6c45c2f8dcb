"""Experiment trackers, which receive metrics in addition to the run record. TensorBoard is the default.

A tracker never decides whether a run succeeds: squeeze warns of a tracker that cannot start and goes on
without it, reports a failure once, and does not wait for a tracker that hangs.
"""
