"""Pictures: drawn by a model, put on a sheet, written to a file."""
