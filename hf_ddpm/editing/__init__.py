"""Pictures of images and of how they come about: grids, strips, animations and curves."""
