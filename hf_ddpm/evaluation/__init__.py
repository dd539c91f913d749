"""Evaluation of a model: samples of several seeds, their features, reference images and results."""
