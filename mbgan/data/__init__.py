"""Images: found, decoded, split, served."""
