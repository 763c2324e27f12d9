# ruff: noqa: E501  # the table reads worse when it is wrapped
"""Every Redis key: its type, who writes it, who reads it and when it goes.

All start with ``scaleplug:NAMESPACE:``. ``FN`` is a function's full name (``app.function``), ``ID`` an input's id
(its Celery task id), ``CALL`` a call's id, ``C`` a container, ``E`` an epoch of its connection, ``P`` a calling
process, ``I`` an input's index in its call. The Lua scripts build the same names from the prefix; this table
holds for both.

| key | type | what it holds | written by | read by | goes when |
|---|---|---|---|---|---|
| queue:FN | list | pending inputs, newest left; also the name of the Celery queue | callers, give-backs | containers | empty |
| delayed:FN | zset | inputs with an ETA, by due time | callers | controller | empty |
| due | zset | FN by its earliest due time | callers, controller | controller | empty |
| transit:C:E | list | the message a container is taking | containers (BLMOVE) | scripts | empty |
| claims:C:E | hash | ID -> message, the inputs a container runs | scripts | scripts | empty |
| running:FN | zset | ID by the time at which its timeout ends | scripts | controller, ps | empty |
| attempts:FN | hash | ID -> times taken | scripts | scripts | input finishes |
| verdicts:FN | hash | ID -> why the input must fail instead of running | controller | containers | input finishes |
| crashes:FN | hash | ID -> how the container that held it last died | controller | containers | input finishes |
| idle:FN | zset | C by the time since when it runs nothing | scripts | controller, ps | container leaves |
| ready:FN | zset | C by the time it got ready | scripts | controller, ps | container leaves |
| containers:FN | set | C of every container that was started and has not gone | controller | scripts, ps | container leaves |
| container:C | hash | fn, slot, backend, requested, ready, epoch, client, pid, host, state | controller, containers | all | 1 h after it left |
| control:C | list | orders to one container: ``cancel ID`` | callers | the container | 60 s |
| stats:FN | hash | finished, failed, refused; timed, microseconds (of those that count for the service time) | scripts | controller, ps | never |
| learned:FN | hash | service_time, start_time (seconds) | controller | controller | never |
| decisions:FN | list | the last decisions, newest left (JSON) | controller | why | 200 are kept |
| quarantine:FN | list | messages that could not be verified or read, with the reason (JSON) | containers | ps, people | 1,000 are kept |
| bell | list | one ring for the controller | all | controller | taken |
| dirty | set | FN that the ring is about | all | controller | taken |
| lease | string | token of the acting controller | controllers | controllers, scripts | 5 s unless renewed |
| leader | string | who holds the lease, for people | controller | ps | 60 s unless renewed |
| functions | hash | FN -> signed app, source and settings (JSON) | callers, run, controller | controller, containers | run ends |
| code | hash | FN -> signed pickled function | callers | containers | run ends |
| call:CALL | hash | of a spawned call: fn, inputs, and once it is so: over, cancelled; open while inputs are added | scripts | FunctionCall, scripts | 1 day after its results |
| results:CALL | hash | I -> ``+`` and the signed outcome, or ``-`` and the reason why there is none | scripts | FunctionCall | result_ttl after the last input's end |
| watchers:CALL:I | set | P that wait for an input of a spawned call | FunctionCall | scripts | 1 day |
| cancelled:CALL | string | the call was cancelled | callers | scripts | 1 day |
| inbox:P | stream | outcomes for one calling process | scripts | that process | 1 h after it ended |
| caller:P | string | the calling process lives | that process | scripts | caller_ttl unless renewed |
| incarnation | string | a random name of this Redis while it keeps its data | callers | callers | never |
| parked:P | list | FN and message of inputs whose caller seemed gone when they were taken | scripts | that process | 1 day |
| logs | stream | what functions printed | controller | run, logs | about 10,000 lines are kept |
"""

from __future__ import annotations

from scaleplug.settings import check_name


class Keys:
    """The key names of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = check_name("namespace", namespace)
        self.prefix = f"scaleplug:{namespace}:"
        self.bell = self.prefix + "bell"
        self.lease = self.prefix + "lease"
        self.leader = self.prefix + "leader"
        self.functions = self.prefix + "functions"
        self.code = self.prefix + "code"
        self.logs = self.prefix + "logs"
        self.due = self.prefix + "due"

    def of(self, kind: str, name: str) -> str:
        """Return the key of ``kind`` for one function, call, container or process."""
        return f"{self.prefix}{kind}:{name}"

    def queue(self, function: str) -> str:
        """Return the list of a function's pending inputs, which is its Celery queue's name too."""
        return self.of("queue", function)

    def transit(self, container: str, epoch: int) -> str:
        """Return the list into which a container takes a message."""
        return self.of("transit", f"{container}:{epoch}")
