"""What the chapters of part 4 use: autoencoders, interpretability, enlargers, text, sound."""
