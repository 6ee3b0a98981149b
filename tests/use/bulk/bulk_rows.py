"""A corpus of a few rows."""

ROWS = [
    {"_id": f"d{i}", "title": f"Lake {i}", "text": f"about {i} lakes{' and rivers' * (i % 7)}"}
    for i in range(23)
]
