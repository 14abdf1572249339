/* Threads that wait for a slot, first come first served. Layer 4.
 *
 * A short mutex guards the queue (and the idle slots of a FIFO pool); it is
 * never held over anything that blocks, allocates or calls out. A waiter is its
 * owner's memory until it has left, and not on a stack: greenlets share their
 * thread's. It parks at a place of its own, which the queue only carries; parking
 * and waking are the caller's.
 *
 * Handing over is a question: cp_waitq_deliver() says whether somebody took the
 * slot, and a waiter that gives up learns from cp_waitq_leave() whether one had
 * been given to it in the meantime. So no slot is lost to a waiter that has
 * timed out a moment ago.
 *
 * Newcomers may pass a waiter that is younger than CP_BARGE_NS: a strict queue
 * makes every release a switch of threads. From then on slots go to the oldest.
 *
 * The fence between "push idle" and "park": a waiter joins (n += 1, seq_cst)
 * and then looks at the idle list; a releaser pushes (seq_cst) and then looks at
 * n. One of the two must see the other. A waiter looks again after CP_BARGE_NS.
 */
#ifndef CP_WAITQ_H
#define CP_WAITQ_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include "cp_clock.h"
#include "cp_slots.h"

#define CP_BARGE_NS (5 * CP_NS_PER_MS)

typedef struct cp_waiter {
    struct cp_waiter *next, *prev;
    int64_t since;   /* when it joined */
    void *parker;    /* its parking place; owned by the waiting thread */
    uint32_t slot;   /* what was given to it, CP_SLOT_NONE so far */
    int queued;
    int woken;       /* its parking place was signalled and it has not looked yet */
    int nudged;      /* it was told to look once; a second time would only churn */
} cp_waiter;

typedef struct cp_waitq {
    pthread_mutex_t mutex;
    cp_waiter *oldest, *newest;
    _Atomic uint32_t n;
    _Atomic int64_t oldest_since; /* CP_FOREVER: nobody waits */
    /* Idle slots of a FIFO pool, linked by cp_slot.next. */
    uint32_t fifo_first, fifo_last;
} cp_waitq;

void cp_waitq_init(cp_waitq *q);
void cp_waitq_destroy(cp_waitq *q);

/* Join at the end; false when `max` others wait already. */
int cp_waitq_join(cp_waitq *q, cp_waiter *w, void *parker, int64_t now, uint32_t max);

/* Stop waiting. True: w->slot was given to it and is now its own. */
int cp_waitq_leave(cp_waitq *q, cp_waiter *w);

/* Has it been served? If not, it may be signalled again. */
int cp_waitq_look(cp_waitq *q, cp_waiter *w);

/* Offer a slot to the oldest waiter. True: taken; wake *parker unless NULL. */
int cp_waitq_deliver(cp_waitq *q, uint32_t slot, void **parker);

/* The parking place of the oldest waiter if it was never nudged, or NULL: a slot
 * was pushed to the idle list and it should look. Once per wait, so that a busy
 * pool is not slowed by waking threads which newcomers pass anyway. */
void *cp_waitq_nudge(cp_waitq *q);

/* Idle slots, oldest first. */
void cp_waitq_push_fifo(cp_waitq *q, cp_slots *slots, uint32_t slot);
uint32_t cp_waitq_pop_fifo(cp_waitq *q, cp_slots *slots);
uint32_t cp_waitq_fifo_first(cp_waitq *q);

static inline uint32_t
cp_waitq_count(cp_waitq *q)
{
    return atomic_load(&q->n);
}

/* May a newcomer take an idle slot, or does somebody wait for too long? */
static inline int
cp_waitq_may_barge(cp_waitq *q)
{
    int64_t since = atomic_load_explicit(&q->oldest_since, memory_order_relaxed);
    return since == CP_FOREVER || cp_clock_now() - since < CP_BARGE_NS;
}

#endif
