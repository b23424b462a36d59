"""The `twusage` command and `python -m twusage`."""
