"""Telemetry is what the router tells of itself: `metrics` counts, `catalogue` names, `exposition` renders; and logs.

It decides nothing. The hot path pays one call a finished request.
"""
