"""Folder of the metric `inception_score`."""
