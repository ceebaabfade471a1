"""One page about a network on a data set, in a file that needs nothing else."""
