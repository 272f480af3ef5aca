"""Embeddings of a text classifier before and after dropout, in inference and training modes."""
