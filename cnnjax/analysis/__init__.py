"""Shapes, parameters, FLOPs and receptive fields of a model, found by tracing it."""

from cnnjax.analysis.summary import Row as Row
from cnnjax.analysis.summary import Summary as Summary
from cnnjax.analysis.summary import receptive_field as receptive_field
from cnnjax.analysis.summary import summary as summary
