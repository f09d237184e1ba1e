"""The one streaming loop: a session owns the clock, the keyframe policy and the caches."""
