"""Training: the optimizer, one pure step, three ways to run it, checkpoints, and the loop around them."""
