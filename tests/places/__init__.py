"""An application with models that share rows."""
