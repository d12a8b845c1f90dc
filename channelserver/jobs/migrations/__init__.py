"""The tables of the jobs, step by step."""
