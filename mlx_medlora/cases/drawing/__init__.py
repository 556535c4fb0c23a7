"""One module for each modality: `draw(finding, rng, size)` returns one phantom image."""
