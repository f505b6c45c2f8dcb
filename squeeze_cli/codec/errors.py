"""What is wrong with a codes file."""

from __future__ import annotations

from squeeze_cli.errors import SqueezeError


class DamagedCodesError(SqueezeError):
    """Bytes that no encoder wrote: damaged or truncated."""
