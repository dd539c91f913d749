"""Examining a run: what its files and samples show, what that means, and what to do."""
