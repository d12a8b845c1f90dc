"""What the measured servers serve: one Django project for all of them, and the bare servers."""
