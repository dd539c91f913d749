"""Folder of the metric `kernel_distance`."""
