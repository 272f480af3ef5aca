"""One page that says whether it matters where and how embeddings are taken: `report.report`, and its renderers."""
