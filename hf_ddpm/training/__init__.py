"""Training programs and the engine they run on."""
