"""The sale: its tables, its rules and its HTTP API."""

__version__ = "0.1.0"
"""The version of this software, which every certificate names."""
