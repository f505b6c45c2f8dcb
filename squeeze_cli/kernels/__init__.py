"""The few hand-made kernels, each beside its plain twin."""
