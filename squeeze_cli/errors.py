"""Errors that a user can see: each message is one line that names the fix."""


class SqueezeError(Exception):
    """A problem that the user can fix; it ends the command with exit status 1."""

    exit_code = 1


class UsageError(SqueezeError):
    """A command line or configuration without meaning; it ends the command with exit status 2."""

    exit_code = 2


class DamagedCodesError(SqueezeError):
    """Codes that no encoder wrote: the file or stream is damaged or truncated."""
