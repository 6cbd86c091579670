"""The package behind the book *Hands-On GANs with PyTorch*: one module for each idea."""

__version__ = "0.1.0"
