"""Facts with sources: accelerators, links, disks, models, sites, rates, and what works with what.

Figures live in `data/*.csv`, in base units that the column names state, and are read when they are first asked for.
A name that is not there is an `UnknownName` with its nearest neighbours; nothing is ever answered with another
entry's figures.  This room imports `base` only; `case` turns its entries into the plain values that plans use.
"""
