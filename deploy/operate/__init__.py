"""What operators ask and order: audit, trace, doctor, quarantine, held partitions.

``registry.py`` lists the commands, each one function from arguments to a result. ``http.py`` offers
them on a running server, ``client.py`` decides where one runs, ``render.py`` turns results into
text. ``evidence.py`` asks tables and log; ``audit.py`` and ``guarantee.py`` judge what they said.
"""
