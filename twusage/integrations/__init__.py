"""Integrations with other software. Each module has one optional dependency, which no other module imports.

=========  =============================================================================================================
``redis``  ``RedisRateLimiter``: processes and machines share an app's window (``pip install 'twusage[redis]'``)
=========  =============================================================================================================
"""
