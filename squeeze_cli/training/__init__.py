"""Training of the network on frozen features with Lightning."""
