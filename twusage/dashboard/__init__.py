"""``twusage serve``: polls the API, and serves a page, JSON and metrics.

``poller`` calls the API and keeps the newest response, ``site`` responds from it, ``guards`` decides which requests are
allowed, ``server`` holds the connections.
"""
