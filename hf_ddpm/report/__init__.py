"""An HTML page about a run."""
