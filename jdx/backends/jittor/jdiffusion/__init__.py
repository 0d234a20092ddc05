"""`backend=jdiffusion`: jobs through JDiffusion's networks and pipeline, in an environment that its user has made."""
