"""Integrations with other software: one module each, with one optional dependency that only it imports.

=========  =============================================================================================================
``redis``  ``RedisRateLimiter``: processes and machines share an app's window (``pip install 'twusage[redis]'``)
=========  =============================================================================================================
"""
