"""The report of a comparison or of a run as one HTML page, and its figures."""
