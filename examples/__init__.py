"""Programs that show the whole of it on data they make."""
