"""Gemma 3, right: configuration, vision tower, text stack, masks, processor, weights, generation."""

from mlx_medlora.backend import load_blas

load_blas()
