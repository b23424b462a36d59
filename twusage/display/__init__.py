"""Outputs for people, all drawn from one value, ``view.View``. They are terminal, page, report, JSON and metrics."""
