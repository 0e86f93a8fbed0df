"""Forecast against measurement: the comparison, terminal tables, the HTML page and the trace.

This room forecasts nothing and measures nothing; it lays two results side by side and says what it sees.
"""
