"""Image features: what the frozen tower and projector make of an image, computed once and kept."""
