"""The frozen-feature store: each image goes through the backbone once."""
