"""What a run tells: its log, the sinks that it is written to, and the curves that are drawn of it."""
