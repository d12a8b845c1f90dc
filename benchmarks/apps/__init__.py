"""The Django project of all measured servers, and the bare servers."""
