"""What the benchmarks against other libraries share: measuring, and the other libraries' ways."""
