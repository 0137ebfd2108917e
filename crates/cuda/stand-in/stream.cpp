// The functions of libcuda.so.1 for streams and events. Signatures are those of cuda.h.

#include <time.h>

#include "device.hpp"

using namespace stand_in;

EXPORTED int cuStreamCreate(void **stream, unsigned) {
    ENTER;
    auto made = std::make_shared<Stream>();
    *stream = made.get();
    gpu.streams[made.get()] = made;
    return SUCCESS;
}

EXPORTED int cuStreamSynchronize(void *stream) {
    ENTER;
    auto on = gpu.stream(stream);
    if (!on) return INVALID_HANDLE;
    gpu.counts.waits++;
    return gpu.wait(*on, on->asked);
}

EXPORTED int cuStreamDestroy_v2(void *stream) {
    ENTER;
    auto on = gpu.stream(stream);
    if (!on || !stream) return INVALID_HANDLE;
    gpu.streams.erase(stream);
    return gpu.carry_out(*on, on->asked);
}

EXPORTED int cuStreamWaitEvent(void *stream, Event *event, unsigned) {
    ENTER;
    auto on = gpu.stream(stream);
    if (!on || !event) return INVALID_HANDLE;
    auto other = event->stream;
    if (!other || other == on) return SUCCESS;
    uint64_t until = event->after;
    return gpu.ask(on, [=] { return device().carry_out(*other, until); });
}

EXPORTED int cuEventCreate(Event **event, unsigned) {
    ENTER;
    *event = new Event;
    return SUCCESS;
}

EXPORTED int cuEventDestroy_v2(Event *event) {
    ENTER;
    // Its record may still wait to be carried out.
    if (event->stream) gpu.carry_out(*event->stream, event->after);
    delete event;
    return gpu.broken;
}

EXPORTED int cuEventRecord(Event *event, void *stream) {
    ENTER;
    auto on = gpu.stream(stream);
    if (!on || !event) return INVALID_HANDLE;
    if (event->stream && event->stream != on) gpu.carry_out(*event->stream, event->after);
    event->stream = on;
    event->after = on->asked + 1;
    return gpu.ask(on, [=] {
        timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        event->seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
        return SUCCESS;
    });
}

EXPORTED int cuEventSynchronize(Event *event) {
    ENTER;
    if (!event) return INVALID_HANDLE;
    gpu.counts.waits++;
    return event->stream ? gpu.wait(*event->stream, event->after) : SUCCESS;
}

// One more piece of work is carried out each time, so that who asks again and again comes to an end.
EXPORTED int cuEventQuery(Event *event) {
    ENTER;
    if (!event) return INVALID_HANDLE;
    if (!event->stream || event->stream->done >= event->after) return SUCCESS;
    gpu.carry_out(*event->stream, event->stream->done + 1);
    return gpu.broken ? gpu.broken : NOT_READY;
}

EXPORTED int cuEventElapsedTime(float *milliseconds, Event *start, Event *end) {
    ENTER;
    if (!start || !end || !start->stream || !end->stream) return INVALID_HANDLE;
    if (start->stream->done < start->after || end->stream->done < end->after) return NOT_READY;
    *milliseconds = (float)((end->seconds - start->seconds) * 1e3);
    return SUCCESS;
}

EXPORTED int cuFuncSetAttribute(void *function, int, int) {
    ENTER;
    return function ? SUCCESS : INVALID_HANDLE;
}
