"""Decision 1: how a model is cut over accelerators, and in which precision.

`plan` holds the value and its step table, `estimate` what a row takes, `execute` (never imported here) does it.
"""
