"""``twusage serve``: one process polls the API, and its page, JSON and metrics serve the whole team.

``poller`` calls the API and keeps the newest response, ``site`` responds from it, ``guards`` decides which requests are
allowed, ``server`` holds the connections.
"""
