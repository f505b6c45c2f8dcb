"""Training: the network on frozen features, its Lightning modules, and `fit_experiment`."""
