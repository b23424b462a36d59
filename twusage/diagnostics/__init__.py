"""``client.check()`` and ``twusage doctor``: problems of credentials or network, and advice."""
