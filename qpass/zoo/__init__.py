"""Models by name, and the models of benchmarks, tests and the demo."""
