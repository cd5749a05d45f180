"""Other engines, each in its best configuration."""
