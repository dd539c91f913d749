"""Measures of generated images: statistics of their features and predictions, as pure functions of arrays."""
