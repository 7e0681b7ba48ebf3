"""Self-contained HTML pages that open offline: a report of errors, and what energies are made of."""
