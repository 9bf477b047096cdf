"""The commands that make data."""
