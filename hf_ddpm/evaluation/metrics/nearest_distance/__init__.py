"""Folder of the metric `nearest_distance`."""
