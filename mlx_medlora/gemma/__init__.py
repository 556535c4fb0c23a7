"""Gemma 3, right: configuration, vision tower, text stack, masks, processor, weights, generation."""
