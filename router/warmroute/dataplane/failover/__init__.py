"""Mid-stream failover: a stream whose replica fails in the middle goes on at another one (`failover: true`).

Who calls whom, in the order in which it happens:

1. `attempt` opens a stream's relay and asks `resuming` (`_may_go_on`) whether another replica could go on with it. Then
   the relay is a `recorded.RecordedRelay`, which keeps what was passed on in a `dialects.continuation.Transcript`.
2. The stream breaks: `attempt` hears that the connection was lost, the recorded relay finds an engine's error among the
   events, or the sweeper finds the replica dead. Each calls `resuming._goes_on`.
3. `resuming` decides whether the stream may go on, takes a decision for another replica, and starts a
   `rest.Continuation`, which asks that replica for the rest (`dialects.continuation.continued_body`).
4. `rest` writes what comes into the same relay, as far as it follows what the client has
   (`dialects.continuation.Rest`), and tells `resuming` once how it ended (`rest_ended`, `rest_lost`). If the rest
   breaks as well, all begins anew at step 3.
5. `resuming` ends the client's answer: whole, or with its API's error event.
"""
