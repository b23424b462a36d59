"""``twusage serve``: one process polls the API, and everybody else looks at its page, its JSON or its metrics.

``poller`` asks the API and keeps what it brings, ``site`` answers requests from it, ``guards`` decides which requests
are answered, ``server`` holds the connections.
"""
