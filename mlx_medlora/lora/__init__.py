"""LoRA: settings, layers, adapters on disk, and loading a model with its adapter."""
