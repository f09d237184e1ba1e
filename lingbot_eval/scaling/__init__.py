"""One stream that gets longer and longer: speed, memory and error along it, and what each kept frame costs."""
