"""Procedural rooms and corridors with exact depth, poses and intrinsics."""
