"""How well do measured runs determine the model's numbers? Refits them, and predicts every source without its own rows."""
