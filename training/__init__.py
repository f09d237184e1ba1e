"""Trains the small checkpoint of configuration ``ci`` on the synthetic generator; the evaluation never imports it."""
