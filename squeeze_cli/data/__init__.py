"""Images and masks: their sources, their splits, and their way to tensors."""
