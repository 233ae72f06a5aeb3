"""Shapes, parameters, FLOPs and receptive fields of a network, found by tracing it."""

from cnnjax.analysis.summary import Row, Summary, receptive_field, summary

__all__ = ["Row", "Summary", "receptive_field", "summary"]
