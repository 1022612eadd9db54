"""What the router tells of itself: `metrics` counts, `catalogue` names, `exposition` renders; `access_log`; `logs`.

Decides nothing. The hot path pays one call a finished request.
"""
