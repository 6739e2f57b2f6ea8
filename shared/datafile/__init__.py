"""Datafiles to the model.

Read in this order: source, diagnostics, quoting, lexer; then datasource, pipe and connection with
what they import; links and project last.
"""
