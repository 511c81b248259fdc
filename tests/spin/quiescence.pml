/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A ring is moved from one worker to the other and then stopped, while both run: nobody touches it when
 * its memory is unmapped, no two workers are in it at once, and what the workers wrote to it is there
 * for the next owner and for the control thread (docs/memory-model.md, "Quiescence").
 *
 *   worker   run() and sleep_until_work() in src/dp/worker.c: load the list, a burst from the ring,
 *            quiescent state; or offline, sleep, online, load the list again, disarm.
 *   control  worker_attach(), worker_move(), worker_detach(): store the list, worker_barrier(); then the
 *            index is read (GET_VRING_BASE) and the memory is unmapped.
 *   liburcu  the QSBR flavour, step by step: a counter of each reader, 0 while it is offline, against
 *            the counter of grace periods.  Its fences are part of the model.
 *
 * Taken away or spoilt one at a time (-D):
 *   NO_BARRIER      unmap right after the list was swapped
 *   NO_MOVE_BARRIER into the second list right after out of the first
 *   NO_RELOAD       use the list from before the sleep after it
 *   EARLY           quiescent state in the middle of a round
 *   NO_SYNC_FENCE   liburcu's fences between the swap and the look at the readers
 *   NO_ONLINE_FENCE liburcu's fence behind "online"
 */
#define CONTROL 2
#define N_PROC 3
#define ROOM 3

#define LIST(w) (w)        /* of worker 0 and 1: 1 with the ring in it; control's */
#define READER(w) (2 + (w)) /* the worker's */
#define PERIOD 4           /* control's */
#define RING 5             /* the ring's index: its present owner's */
#define N_WORD 6
#define LANDED(p, w, v) assert(w != RING || mapped)

bool mapped = true;

#include "tso.h"

#ifndef BURSTS
#define BURSTS 2
#endif
byte bursts; /* so many were done: what the index must be */
byte inside; /* workers that are in the ring */

#ifdef NO_SYNC_FENCE
#define fence_sync skip
#else
#define fence_sync fence(CONTROL)
#endif
#ifdef NO_ONLINE_FENCE
#define fence_online skip
#else
#define fence_online fence(me)
#endif

inline quiescent_state()
{
    if
    :: load(PERIOD) + 1 != reader ->
        fence(me);
        reader = load(PERIOD) + 1;
        store(me, READER(me), reader);
        fence(me)
    :: else
    fi
}

inline offline()
{
    fence(me);
    reader = 0;
    store(me, READER(me), 0);
    fence(me)
}

inline online()
{
    reader = load(PERIOD) + 1;
    store(me, READER(me), reader);
    fence_online
}

/* A load of the ring's index, which a store of our own may not have reached yet, then a store. */
inline burst()
{
    atomic { inside++; assert(inside == 1 && mapped) }
    atomic {
        if
        :: buffer[me]??[RING, _] -> skip /* at is what we stored last */
        :: else -> at = load(RING)
        fi
    }
#ifdef EARLY
    quiescent_state();
#endif
    atomic { assert(mapped); at++; bursts++; store(me, RING, at) }
    inside--
}

active [2] proctype worker()
{
    byte me = _pid - N_PROC, list, reader, at;

    online();
end:
    do
    :: true -> /* a round */
        list = load(LIST(me));
        if
        :: list == 1 && bursts < BURSTS -> burst()
        :: else
        fi;
#ifndef EARLY
        quiescent_state()
#endif
    :: true -> /* a sleep, of any length */
        list = load(LIST(me));
        if
        :: list == 1 -> assert(mapped) /* arm */
        :: else
        fi;
        offline();
        online();
#ifndef NO_RELOAD
        list = load(LIST(me));
#endif
        if
        :: list == 1 -> assert(mapped) /* disarm */
        :: else
        fi;
        quiescent_state()
    od
}

inline barrier()
{
    fence_sync;
    period++;
    store(CONTROL, PERIOD, period);
    fence_sync;
    load(READER(0)) == 0 || load(READER(0)) == period + 1;
    load(READER(1)) == 0 || load(READER(1)) == period + 1;
    fence(CONTROL)
}

active proctype control()
{
    byte period;

    store(CONTROL, LIST(0), 1);
    barrier();
    store(CONTROL, LIST(0), 0);
#ifndef NO_MOVE_BARRIER
    barrier();
#endif
    store(CONTROL, LIST(1), 1);
    barrier();
    store(CONTROL, LIST(1), 0);
#ifndef NO_BARRIER
    barrier();
#endif
    assert(load(RING) == bursts);
    mapped = false
}
