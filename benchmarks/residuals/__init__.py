"""Parts of the benchmarks of the flight recorder."""
