"""Shards that are not here: on an HTTP server, in S3, or the output of a command."""
