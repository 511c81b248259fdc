/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Memory with store buffers, for spin: a store goes into a first-in first-out buffer of its process,
 * and from there to memory at some later moment, as on x86 (total store order).  Loads look at memory
 * at once.  So a store may pass a later load, which is what the full fences are for.
 *
 * Every word has one writer (or is written by others only when they are done with it), and a writer
 * does not load its own words but remembers them: so nobody has to look into his own buffer.
 *
 * Weaker than this is what arm64 does: stores pass stores there, too.  Those orderings are acquire and
 * release on the word, and ThreadSanitizer sees them (tests/pair/).
 *
 * The includer defines N_PROC, N_WORD, ROOM, and LANDED(proc, word, value) for what is to hold when a
 * store reaches memory.
 */
byte mem[N_WORD];
chan buffer[N_PROC] = [ROOM] of { byte, byte };

#define store(p, w, v) buffer[p]!w,v
#define load(w) mem[w]
#define fence(p) (empty(buffer[p]))

active [N_PROC] proctype drain()
{
    byte w, v;
end:
    do
    :: atomic { buffer[_pid]?w,v -> LANDED(_pid, w, v); mem[w] = v; w = 0; v = 0 }
    od
}
