"""The words everyone uses: units, labels, errors, formulas, step table, metrics, events.

This room knows nothing of accelerators, cases or machines and imports nothing heavier than NumPy.
"""
