"""The network behind the frozen backbone: plain torch, no Lightning."""
