"""Codes and embeddings of images, written and read again by a finished run."""
