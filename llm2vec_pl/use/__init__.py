"""A trained encoder at work: a corpus to Parquet, export, search, a server."""
