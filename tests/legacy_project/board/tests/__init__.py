"""The tests, as they were written for Channels 1."""
