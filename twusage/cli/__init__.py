"""The ``twusage`` command. Thin: ``display`` renders its output.

================  =====================================================================================================
``app``           the group of commands
``show``          ``twusage show``
``forecast``      ``twusage forecast``
``check``         ``twusage check``: one line and an exit code for monitoring systems
``watch``         ``twusage watch``: JSON lines, and the command of ``--exec``
``board``         its live view
``history``       ``twusage history``
``doctor``        ``twusage doctor``
``fake``          ``twusage fake``: serves the fake API on a local port
``call``          one call of the API, or of the demo, for every command that shows a usage
``demo``          the project of ``--demo``
``options``       options of the API, and the client that they configure
``store``         the option of the history, and the open history
``output``        writes to stdout
``countdown``     shown on stderr while a call waits
``exit_codes``    exit codes and error messages; imports neither click nor rich, which may be missing
``one_sentence``  click's error messages as one sentence
================  =====================================================================================================
"""
