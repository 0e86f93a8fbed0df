"""Training logs of other programs, read as steps with seconds, memory and what else they say of a step.

One file a program, each with a `read`; `detect` tries them all.  Nothing is compared here.
"""
