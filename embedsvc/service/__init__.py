"""Embeddings and their dropout variants over HTTP: a door, and no more.

What the service knows is how to answer over HTTP: whom, when, how much at once. What an embedding is, it asks the
library. `server.serve` is what ``embedsvc serve`` calls; `app.create_app` is an ASGI application for other servers.
"""
