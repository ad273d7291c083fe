"""Debias Studio's core: audit, injection, curation and measurement, without any user interface."""
