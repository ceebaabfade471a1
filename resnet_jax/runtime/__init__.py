"""What a process needs around JAX: the other processes, the devices, flags and programs, a parent that restarts it."""
