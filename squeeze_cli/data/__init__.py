"""Images and trimaps: their sources, their splits, and their way to tensors."""
