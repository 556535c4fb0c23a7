"""Clinical cases: the row's schema, the dataset directory, images, phantoms and preparation."""
