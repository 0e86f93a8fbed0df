"""Decision 3: which links carry which transfers, by which algorithm, how compressed.

`plan` holds the value, `estimate` what a transfer takes, `execute` (never imported here) does it.
"""
