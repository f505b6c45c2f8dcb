"""Hand-made kernels; each has a plain equivalent."""
