"""What a trained network sees: feature maps of a picture, and pictures that a filter or a class likes most."""
