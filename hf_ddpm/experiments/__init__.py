"""Experiments: sweeps, comparisons of recipes and the pages made of them."""
