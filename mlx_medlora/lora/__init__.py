"""LoRA: settings, layers, adapters on disk, and loading a model with its adapter."""

from mlx_medlora.backend import load_blas

load_blas()  # before any module of this room imports mlx
