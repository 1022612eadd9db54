"""This package holds the load tests that locust runs: what is asked when, how answers are read, what they amount to.

They are a black box: routers and replicas are spoken to over HTTP only. `locustfile`, `watched` and `web` import
locust, gevent and Flask, and `launch` starts processes; all others are plain Python, so that they can be tested where
none of that is installed. From the bottom up:

    talks, tape                    conversations, and their texts
    scenarios, hostile, replay     which conversations: made, or read from a trace or the router's access log
    arrivals                       when they start, and which worker plays them
    bodies, sse, answers, wire     requests out, streams in
    player                         one request at its time, one sample of it
    samples, recorder              what was measured; what workers tell the master
    figures, thresholds, baseline  what it amounts to, and whether that is good enough
    plots, report                  the pages
    settings, launch               `make loadtest`
"""
