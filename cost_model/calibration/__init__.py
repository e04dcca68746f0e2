"""What do measured runs tell of the model's numbers? Refits them, and predicts every source without its own rows."""
