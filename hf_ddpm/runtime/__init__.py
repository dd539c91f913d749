"""Plumbing: files, signals, processes, the environment."""
