"""What stays visible of a stream: the policy in integers, and the tensor stores that follow it."""
