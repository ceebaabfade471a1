"""The log of a run, the sinks that it is written to, and the curves that are drawn of it."""
