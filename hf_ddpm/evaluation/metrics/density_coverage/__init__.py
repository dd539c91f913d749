"""Folder of the metric `density_coverage`."""
