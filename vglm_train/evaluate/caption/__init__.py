"""Task caption: generated captions against references, and the loss gap that shows whether the model uses the image."""
