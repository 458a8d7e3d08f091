"""Engines behind an endpoint: any server that speaks OpenAI's API, asked over HTTP.

`post` sends one request, `reply` and `sent` refuse what is no answer to it, `attempts`
keeps every one of them, `asking` has many in flight, `gate_run` is the gate and
`serve_bench` the latency. Nothing here trusts the server: bodies are capped, time is
limited, redirects are refused and the key is never written.
"""
