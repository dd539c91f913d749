"""Measuring a model: samples of several seeds, their features, references and results."""
