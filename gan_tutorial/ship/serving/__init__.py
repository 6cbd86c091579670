"""An exported generator as an HTTP service (no PyTorch): python -m gan_tutorial.ship.serving."""
