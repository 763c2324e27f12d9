# ruff: noqa: E501  # the table reads worse when it is wrapped
"""Every Redis key: its type, who writes it, who reads it and when it goes.

All start with ``scaleplug:NAMESPACE:``. ``FN`` is a function's full name (``app.function``), ``ID`` an input's id
(its Celery task id; ``CALL:FIRST+COUNT`` is a pack of a map's inputs, which stands where an input does), ``CALL`` a call's id, ``C`` a container, ``E`` an epoch of its connection, ``P`` a calling
process, ``I`` an input's index in its call. The Lua scripts build the same names from the prefix; this table
holds for both.

| key | type | what it holds | written by | read by | goes when |
|---|---|---|---|---|---|
| queue:FN | list | pending inputs, newest left; also the name of the Celery queue | callers, give-backs | containers | empty |
| delayed:FN | zset | inputs with an ETA, and failed ones that wait for a retry, by due time | callers, containers | controller | empty |
| due | zset | FN by its earliest due time | callers, containers, controller | controller | empty |
| transit:C:E | list | the message a container is taking, or has begun and not claimed yet | containers (BLMOVE) | scripts | empty |
| claims:C:E | hash | ID -> message, the inputs a container runs | scripts | scripts | empty |
| running:FN | zset | ID by the time at which its timeout ends | scripts | controller, ps | empty |
| argument:ID | hash | position -> chunk of an input's large arguments; their hashes are in its signed message | callers | containers | input ends |
| outcome:CALL:INDEX:R | hash | position -> chunk of a large outcome (R is random); their hashes are in the signed outcome | containers | callers, FunctionCall | read; with the result it is kept for; 1 h |
| draft:KEY | hash | what is to become one of these when its input is accepted or its outcome stored | callers, containers | scripts | accepted or refused; 1 h |
| attempts:FN | hash | ID -> times taken | scripts | scripts | input finishes |
| verdicts:FN | hash | ID -> why the input must fail instead of running (``streamed:ITEMS:PART``: so much of its stream was sent) | controller, scripts | containers, scripts | input finishes |
| retries:FN | hash | ID -> how often it has failed and was put off | scripts | containers | input finishes |
| cancelling:FN | zset | ID of cancelled inputs that still run, by the time at which their container is killed | scripts | controller | input finishes |
| crashes:FN | hash | ID -> how the container that held it last died | controller | containers | input finishes |
| idle:FN | zset | C by the time since when it runs nothing | scripts | controller, ps | container leaves |
| ready:FN | zset | C by the time it got ready | scripts | controller, ps | container leaves |
| containers:FN | set | C of every container that was started and has not gone | controller | scripts, ps | container leaves |
| container:C | hash | fn, slot, backend, version, requested, forked (or told what to be), spare (1 if it was one), ready, taken and ended (its first input), epoch, client, pid, host, state, slots (inputs it was told to run at once), serial (it takes several, and runs one after the other) | controller, containers | all | 1 h after it left |
| control:C | list | orders to one container: ``cancel ID`` (several on lines of their own), ``slots N`` | callers, controller | the container | 60 s |
| will:C | string | topic and Celery event, on a line each, by which those who watch learn that it is gone; where task events are sent | the container | gone.lua | it is gone |
| stats:FN | hash | finished, failed, retried, refused; starts (of containers); timed, microseconds (of those that count for the service time) | scripts | controller, ps | never |
| times:FN | hash | histograms: wait (of inputs, in microseconds all together), wait1 and on (how many in each bucket), so run and start | scripts | metrics | with the function |
| history:FN | list | what it had whenever that changed, newest left: time, pending, running, starting, idle, busy, draining, desired | controller | Flower | 900 are kept; 2 days |
| trouble:FN | string | why the last container did not start, its version and when (JSON) | controller | deploy, apps, ps, why | one starts |
| prepared | hash | FN -> version of the code that the backend is ready to start | controller | deploy | with the function |
| learned:FN | hash | service_time, start_time (seconds) | controller | controller | never |
| decisions:FN | list | the last decisions, newest left (JSON); rang: when the controller woke for one | controller | why | 200 are kept |
| quarantine:FN | list | messages that could not be verified or read, with the reason (JSON) | containers | ps, people | 1,000 are kept |
| bell | list | one ring for the controller | all | controller | taken |
| packed:FN | hash | ``pending`` and ``running``: inputs there beyond one for each message, since packs hold several | scripts | scripts | empty |
| dirty | set | FN that the ring is about; `*` for the registry, `=FN` for its settings, `@due` for the due times | all | controller | taken |
| calm | hash | FN of which the controller has nothing to decide when an input comes, to when: "idle", an idle container takes it; "full", always | controller | scripts | it has, or another acts |
| unrung | set | FN of which such inputs came, and have not been begun | scripts | scripts | one is begun |
| lease | string | token of the acting controller | controllers | controllers, scripts | 5 s unless renewed |
| leader | string | who holds the lease, for people | controller | ps | 60 s unless renewed |
| hosts | zset | host names by the time of the last sign of life of a controller there | controllers | controller | 1 day after the last, or when it is lost |
| functions | hash | FN -> signed app, source, version and settings (JSON) | callers, run, deploy | controller, callers | run ends, app stops |
| code | hash | FN@version -> signed pickled function or class | callers, deploy | containers | its version is replaced |
| versions | hash | FN -> version of the code that is registered (for containers that ask if theirs is) | callers, deploy | scripts | with the function |
| overrides | hash | FN -> signed settings laid over the registered ones (JSON) | update_autoscaler | controller, callers | next deploy |
| apps | hash | app -> signed version, time and state of its deployment (JSON) | deploy, stop | callers, people | never |
| deploying:app | string | lock of the deployment under way | deploy | deploy | 30 s |
| scheduled:APP | set | names of an app's entries of the timetable | deploy, register, stop | deploy, schedules | they are gone |
| beat:NAME | hash | definition and meta (JSON) of an entry, as celery-redbeat has them: what happens when, and when it last did | deploy, register, beat, schedules | beat | its function is gone |
| beat::schedule | zset | beat:NAME by the time it is due | deploy, register, beat, schedules | beat, schedules | with the last entry |
| beat::statics | set | names of entries of a Celery app's own beat_schedule | celery beat | celery beat | they are gone |
| beat::lock | string | token of the acting beat | beat | beat | 15 s unless renewed |
| retiring | set | FN that take no new inputs and go when the last one has ended | deploy, stop, controller | scripts, controller | they are gone |
| call:CALL | hash | of a spawned call: fn, inputs, and once it is so: over, cancelled; open while inputs are added | scripts | FunctionCall, scripts | 1 day after its results |
| results:CALL | hash | I -> ``+`` and the signed outcome, or ``-`` and the reason why there is none | scripts | FunctionCall | result_ttl after the last input's end |
| watchers:CALL:I | set | P that wait for an input of a spawned call | FunctionCall | scripts | 1 day |
| large:CALL | set | the large outcomes (outcome:CALL:INDEX:R) to which a spawned call's results refer | scripts | scripts | with the results |
| task:CALL | hash | of a task of Django: sent, when its runs began and ended, each signed (JSON) | contrib.django | contrib.django | result_ttl after its end; 30 days |
| cancelled:CALL | string | the call was cancelled | callers | scripts | 1 day |
| granted:CALL | string | the last part of a stream that its consumer has begun to read | callers | scripts | stream ends |
| credit:CALL | list | the same, for a container that waits for it | callers | the container | stream ends |
| inbox:P | stream | outcomes (those of a pack in one entry), and parts of streams, for one calling process | scripts | that process | 1 h after it ended |
| caller:P | string | the calling process lives | that process | scripts | caller_ttl unless renewed |
| incarnation | string | a random name of this Redis while it keeps its data | callers, controller | callers, controller | never |
| parked:P | list | FN and message of inputs whose caller seemed gone when they were taken, or a container was to be started for them | scripts | that process | 1 day |
| logs | stream | what functions printed | controller | run, logs, controller | about 10,000 lines are kept |
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
        self.versions = self.prefix + "versions"
        self.prepared = self.prefix + "prepared"
        self.overrides = self.prefix + "overrides"
        self.apps = self.prefix + "apps"
        self.retiring = self.prefix + "retiring"
        self.logs = self.prefix + "logs"
        self.due = self.prefix + "due"
        self.beat = self.prefix + "beat:"

    def of(self, kind: str, name: str) -> str:
        """Return the key of ``kind`` for one function, call, container or process."""
        return f"{self.prefix}{kind}:{name}"

    def queue(self, function: str) -> str:
        """Return the list of a function's pending inputs, which is its Celery queue's name too."""
        return self.of("queue", function)

    def transit(self, container: str, epoch: int) -> str:
        """Return the list into which a container takes a message."""
        return self.of("transit", f"{container}:{epoch}")
