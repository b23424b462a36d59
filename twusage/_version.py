"""The version, in one place. Nothing else."""

__version__ = "0.2.0"
