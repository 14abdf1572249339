/* Faults on order: the next calls of a libc function fail or fall short.
 *
 * The linker's --wrap sends the calls made in the code under test (and in the test
 * itself) here. Each function has a short script; a call takes the next step of it
 * and, once the script is used up, does what libc does. Scripts, counts and the clock
 * belong to the thread that calls: other threads never meet its faults.
 */
#ifndef CP_FAULTS_H
#define CP_FAULTS_H

#include <stddef.h>
#include <stdint.h>

typedef enum fault_call {
    FAULT_RECV, /* recv and recvmsg */
    FAULT_SEND, /* send and sendmsg */
    FAULT_POLL,
    FAULT_FCNTL,
    FAULT_SETSOCKOPT,
    FAULT_ALLOC, /* malloc, calloc and realloc */
    FAULT_CALLS
} fault_call;

#define FAULT_PASS 0
#define FAULT_STEPS 64

/* The call fails with this errno (an allocation: returns NULL). FAULT_PASS: it is let
 * through. */
void fault_errno(fault_call call, int err);

/* recv/send: the call moves at most `bytes`, as the kernel may always do. */
void fault_short(fault_call call, size_t bytes);

/* poll: the call returns 0 at once, as if its time had passed. */
void fault_poll_timeout(void);

/* recv/send: while it is not 0, no call moves more than that many bytes. */
void fault_limit(size_t bytes);

/* Add to what CLOCK_MONOTONIC shows. */
void fault_clock_advance(int64_t ns);

/* Let CLOCK_MONOTONIC stand still but for fault_clock_advance(). */
void fault_clock_stop(void);

/* Forget all scripts; the clock is right again. To be called at the start of a test. */
void fault_clear(void);

/* Scripted steps that were not met. */
int fault_left(fault_call call);

/* Calls since fault_clear(), and the last one's flags (recv, send) or timeout (poll). */
int fault_count(fault_call call);
int fault_last_argument(fault_call call);

#endif
