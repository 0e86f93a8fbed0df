"""Decision 2: where parameters, checkpoints and caches live, and in which form.

`plan` holds the value, `estimate` what writing and reading take, `execute` (never imported here) does it.
"""
