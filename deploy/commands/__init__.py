"""The commands of ``pipehouse``, one module a group; ``deploy/cli.py`` puts them together."""
