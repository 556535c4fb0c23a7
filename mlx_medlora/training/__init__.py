"""Examples become batches, batches train an adapter."""

from mlx_medlora.backend import load_blas

load_blas()  # before any module of this room imports mlx
