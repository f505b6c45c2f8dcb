"""The network behind the frozen backbone: plain torch without Lightning."""
