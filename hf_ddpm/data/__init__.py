"""Images in, uint8 batches out: find a dataset, decode it once, order its images."""
