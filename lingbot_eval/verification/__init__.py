"""Rebuild the reference model and inputs by formula and compare: can this machine be trusted?"""
