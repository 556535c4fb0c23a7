"""The ladder against transformers + PEFT: the same numbers, rung by rung. Torch is imported here alone."""
