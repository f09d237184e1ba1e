"""What is looked at: clouds that grow while a method streams, what a run keeps of them, exports. Knows no run."""
