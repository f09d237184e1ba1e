"""Whether a run is as good as a baseline: read from stored records, judged, never measured here."""
