"""Typed, frozen configuration. Standard library and PyYAML only, so that it imports in well under a second."""
