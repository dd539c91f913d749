"""Training programs: the loop and what it stands on."""
