"""The ``twusage`` command. Thin: everything it shows comes from below.

=============  =========================================================================================================
``app``        the group of commands; click's own complaints in one sentence
``show``       ``twusage show``: its options, one call, and where the answer goes
``doctor``     ``twusage doctor``: a check-up, and how it is shown
``fake``       ``twusage fake``: the fake API on a port of this machine
``table``      a ``Usage`` as the text that a person reads
``access``     the way to the API, for both: the token in a file, the proxy, the client
``output``     what is written on stdout
``countdown``  what is shown while the call waits
``exits``      exit codes and the sentences on stderr; it loads neither click nor rich, for they may be missing
=============  =========================================================================================================
"""
