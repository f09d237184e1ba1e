"""Sequences of images with what is known of them: adapters, cards, preparation, examination and conversion."""
