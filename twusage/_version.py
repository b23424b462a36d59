"""The version, in one place. Nothing else."""

__version__ = "0.1.0"
