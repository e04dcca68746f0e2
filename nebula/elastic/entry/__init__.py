"""Scripts that agents start."""
