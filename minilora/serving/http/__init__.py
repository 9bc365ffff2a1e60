"""An HTTP server over an engine, in the form of OpenAI's API (the `serve` extra)."""
