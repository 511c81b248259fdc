/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nobody sleeps through his work: a worker, a guest and the control thread (docs/memory-model.md).
 *
 *   worker   sleep_until_work() in src/dp/worker.c: say "asleep", fence W1, look at list and stop; ask
 *            for a kick, fence S4 (P4), look for chains; epoll_wait().  At the end of a round, behind
 *            the used index, fence S3 and a look at what the driver asked for.
 *   guest    publishes a chain, fence D3 (Q3), looks whether a kick is wanted; asks for a signal, fence
 *            D4 (Q4), looks for the used chain, waits.
 *   control  gives the worker a list with the ring in it, fence, looks whether the worker sleeps and
 *            wakes it; when the guest is done the same with "stop".
 *
 * A lost wake-up is a state in which everybody waits: spin calls that an invalid end state.
 * EVENT_IDX: requests are event words and are left behind; else flags, which are taken back.
 *
 * Taken away one at a time (-D): NO_W1, NO_WAKE (its partner in wake()), NO_S4, NO_D3, NO_S3, NO_D4.
 */
#define WORKER 0
#define GUEST 1
#define CONTROL 2
#define N_PROC 3
#define ROOM 4

#define ASLEEP 0      /* worker's words */
#define WANT_KICK 1   /* flags: 0 or 1; event index: the chain that is waited for */
#define USED 2
#define AVAIL 3       /* guest's */
#define WANT_SIGNAL 4
#define LIST 5        /* control's: 1 with the ring in it */
#define STOP 6
#define N_WORD 7
#define LANDED(p, w, v) skip

#include "tso.h"

#ifndef FRAMES
#define FRAMES 3
#endif
#ifdef EVENT_IDX
#define WANTED(word, new, old) (load(word) >= (old) && load(word) < (new))
#define REQUEST(at) (at)
#else
#define WANTED(word, new, old) (load(word) == 1)
#define REQUEST(at) 1
#endif

bool ready;   /* something for epoll_wait(): edge-triggered, so it takes it away */
bool call;    /* the guest's interrupt */
bool done;    /* the guest has all its chains back */

#ifdef NO_W1
#define fence_w1 skip
#else
#define fence_w1 fence(WORKER)
#endif
#ifdef NO_WAKE
#define fence_wake skip
#else
#define fence_wake fence(CONTROL)
#endif
#ifdef NO_S3
#define fence_s3 skip
#else
#define fence_s3 fence(WORKER)
#endif
#ifdef NO_S4
#define fence_s4 skip
#else
#define fence_s4 fence(WORKER)
#endif
#ifdef NO_D3
#define fence_d3 skip
#else
#define fence_d3 fence(GUEST)
#endif
#ifdef NO_D4
#define fence_d4 skip
#else
#define fence_d4 fence(GUEST)
#endif

active proctype worker()
{
    byte list, taken, seen;
    bool work;

    do
    :: true ->
        /* run(): stop is asked between rounds */
        if
        :: load(STOP) == 1 -> break
        :: else
        fi;
        list = load(LIST);
        seen = taken;
        if
        :: list == 1 -> seen = load(AVAIL)
        :: else
        fi;
        if
        :: seen != taken -> /* one round: use, publish, then look whether a signal is wanted */
            store(WORKER, USED, seen);
            fence_s3;
            if
            :: WANTED(WANT_SIGNAL, seen, taken) -> call = true
            :: else
            fi;
            taken = seen
        :: else -> /* sleep_until_work() */
            store(WORKER, ASLEEP, 1);
            fence_w1;
            if
            :: load(LIST) != list -> work = true
            :: else -> work = (load(STOP) == 1)
            fi;
            if
            :: list == 1 ->
                store(WORKER, WANT_KICK, REQUEST(taken));
                fence_s4;
                if
                :: load(AVAIL) != taken -> work = true
                :: else
                fi
            :: else
            fi;
            if
            :: !work -> atomic { ready -> ready = false }
            :: else
            fi;
            work = false;
            store(WORKER, ASLEEP, 0);
#ifndef EVENT_IDX
            if
            :: list == 1 -> store(WORKER, WANT_KICK, 0)
            :: else
            fi
#endif
        fi
    od
}

active proctype guest()
{
    byte sent;

    do
    :: sent < FRAMES ->
        store(GUEST, AVAIL, sent + 1);
        fence_d3;
        if
        :: WANTED(WANT_KICK, sent + 1, sent) -> ready = true
        :: else
        fi;
        sent++;
        do /* wait until it is used */
        :: load(USED) == sent -> break
        :: else ->
            store(GUEST, WANT_SIGNAL, REQUEST(sent - 1));
            fence_d4;
            if
            :: load(USED) == sent
            :: else -> atomic { call -> call = false }
            fi;
#ifndef EVENT_IDX
            store(GUEST, WANT_SIGNAL, 0)
#endif
        od
    :: else -> break
    od;
    done = true
}

active proctype control()
{
    store(CONTROL, LIST, 1);
    fence_wake;
    if
    :: load(ASLEEP) == 1 -> ready = true
    :: else
    fi;
    done;
    store(CONTROL, STOP, 1);
    fence_wake;
    if
    :: load(ASLEEP) == 1 -> ready = true
    :: else
    fi
}
