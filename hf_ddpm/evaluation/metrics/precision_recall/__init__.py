"""Folder of the metric `precision_recall`."""
