"""Training: recipes, augmentation on the device, and the loop."""
