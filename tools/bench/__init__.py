"""Side-by-side measurements of the usual way and this project's, one module per topic: `python -m tools.bench`."""
