"""The roof: command line, dev server, check, plan, apply and test. See its README."""
