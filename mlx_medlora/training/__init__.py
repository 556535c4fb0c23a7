"""Examples become batches, batches train an adapter."""
