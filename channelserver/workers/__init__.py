"""Worker threads: they take messages from the layer and run consumers."""
