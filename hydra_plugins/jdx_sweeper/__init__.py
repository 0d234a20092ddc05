"""Hydra 1.3 accepts sweepers only from below `hydra_plugins`; the sweeper itself is `sweeps.sweeper`."""

from sweeps.plugin import JdxSweeper as _JdxSweeper


class JdxSweeper(_JdxSweeper):
    """See `sweeps.plugin`."""
