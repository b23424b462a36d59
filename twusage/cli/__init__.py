"""The ``twusage`` command.

==============  ========================================================================================================
``app``         the command group; click's error messages in one sentence
``show``        ``twusage show``: its options, one call, and its output
``doctor``      ``twusage doctor``: checks credentials and connection, and prints the findings
``fake``        ``twusage fake``: serves the fake API on a local port
``table``       a ``Usage`` as text for people
``options``     shared options, and the client that they configure
``output``      writes to stdout
``countdown``   shown on stderr while a call waits
``exit_codes``  exit codes and error messages; imports neither click nor rich, which may be missing
==============  ========================================================================================================
"""
