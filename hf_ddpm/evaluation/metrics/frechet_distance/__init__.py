"""Folder of the metric `frechet_distance`."""
