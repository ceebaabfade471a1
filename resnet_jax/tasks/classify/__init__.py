"""Classification: one class per image. Nothing is imported here, since the loss needs fewer libraries than the task."""
