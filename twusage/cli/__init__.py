"""The ``twusage`` command. Thin: everything it shows comes from ``display``.

================  =====================================================================================================
``app``           the group of commands
``show``          ``twusage show``
``forecast``      ``twusage forecast``
``check``         ``twusage check``: one line and an exit code for monitoring systems
``watch``         ``twusage watch``: JSON lines, and the command of ``--exec``
``board``         its live view
``history``       ``twusage history``
``doctor``        ``twusage doctor``
``fake``          ``twusage fake``: the fake API on a port of this machine
``call``          one call of the API, or of the demo, for every command that shows a usage
``demo``          the project of ``--demo``
``options``       the options that reach the API, and the client made of them
``store``         the option of the history, and the open history
``output``        what is written on stdout
``countdown``     what is shown while the call waits
``exit_codes``    exit codes and the sentences on stderr; loads neither click nor rich, because they may be missing
``one_sentence``  click's complaints as one sentence
================  =====================================================================================================
"""
