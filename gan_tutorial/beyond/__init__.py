"""What the chapters of part 4 use: autoencoders, text, sound, interpretability."""
