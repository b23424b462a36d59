"""``client.check()`` and ``twusage doctor``: what is wrong with a set-up, and what to do."""
