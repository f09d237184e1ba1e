"""Benchmark and evaluation harness for streaming 3D reconstruction, with the LingBot-Map model inside."""

__version__ = "0.1.0"
