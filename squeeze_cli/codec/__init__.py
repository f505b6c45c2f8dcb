"""Lossless coding of codes into bytes and back; docs/codes-format.md describes the format."""
