"""Evidence becomes a page: one HTML file that needs no network, and a model card, from a run's results."""
