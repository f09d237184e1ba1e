"""The machine: its CPU and GPU, what a record says of it, and when two are the same hardware."""
