"""squeeze: dense vision embeddings in a handful of bytes that still segment well."""

__version__ = "0.1.0"
