"""Folder of the metric `class_accuracy`."""
