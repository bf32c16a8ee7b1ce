"""`cpctl`: the operator's client. It knows the HTTP API alone, and nothing of the server's code."""
