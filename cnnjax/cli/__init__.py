"""The command line: configurations, presets, flags, and the only place that knows them."""
