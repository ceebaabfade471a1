"""Semantic segmentation as a task: the class of every pixel."""
