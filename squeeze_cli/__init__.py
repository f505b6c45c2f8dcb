"""squeeze: compression of the dense features of frozen vision backbones to a few bytes per image."""

__version__ = "0.1.0"
