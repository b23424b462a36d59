"""``client.check()`` and ``twusage doctor``: what is wrong with the credentials or the network, and what to do."""
