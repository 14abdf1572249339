/* The queue of waiters, and the idle slots of a FIFO pool under the same mutex. */
#include "cp_waitq.h"

void
cp_waitq_init(cp_waitq *q)
{
    pthread_mutex_init(&q->mutex, NULL);
    q->oldest = q->newest = NULL;
    atomic_init(&q->n, 0);
    atomic_init(&q->oldest_since, CP_FOREVER);
    q->fifo_first = q->fifo_last = CP_SLOT_NONE;
}

void
cp_waitq_destroy(cp_waitq *q)
{
    pthread_mutex_destroy(&q->mutex);
}

static void
cp_waitq__note_oldest_locked(cp_waitq *q)
{
    int64_t since = q->oldest == NULL ? CP_FOREVER : q->oldest->since;
    atomic_store_explicit(&q->oldest_since, since, memory_order_relaxed);
}

static void
cp_waitq__unlink_locked(cp_waitq *q, cp_waiter *w)
{
    if (w->prev != NULL)
        w->prev->next = w->next;
    else
        q->oldest = w->next;
    if (w->next != NULL)
        w->next->prev = w->prev;
    else
        q->newest = w->prev;
    w->queued = 0;
    atomic_fetch_sub(&q->n, 1);
    cp_waitq__note_oldest_locked(q);
}

int
cp_waitq_join(cp_waitq *q, cp_waiter *w, void *parker, int64_t now, uint32_t max)
{
    int joined = 0;
    w->since = now;
    w->parker = parker;
    w->slot = CP_SLOT_NONE;
    w->woken = w->nudged = 0;
    w->next = NULL;
    pthread_mutex_lock(&q->mutex);
    if (atomic_load_explicit(&q->n, memory_order_relaxed) < max) {
        w->prev = q->newest;
        if (q->newest != NULL)
            q->newest->next = w;
        else
            q->oldest = w;
        q->newest = w;
        w->queued = joined = 1;
        atomic_fetch_add(&q->n, 1);
        cp_waitq__note_oldest_locked(q);
    }
    pthread_mutex_unlock(&q->mutex);
    return joined;
}

int
cp_waitq_leave(cp_waitq *q, cp_waiter *w)
{
    pthread_mutex_lock(&q->mutex);
    if (w->queued)
        cp_waitq__unlink_locked(q, w);
    pthread_mutex_unlock(&q->mutex);
    return w->slot != CP_SLOT_NONE;
}

int
cp_waitq_look(cp_waitq *q, cp_waiter *w)
{
    pthread_mutex_lock(&q->mutex);
    int served = w->slot != CP_SLOT_NONE;
    if (!served)
        w->woken = 0;
    pthread_mutex_unlock(&q->mutex);
    return served;
}

static void *
cp_waitq__signal_locked(cp_waiter *w)
{
    void *parker = w->woken ? NULL : w->parker;
    w->woken = 1;
    return parker;
}

int
cp_waitq_deliver(cp_waitq *q, uint32_t slot, void **parker)
{
    pthread_mutex_lock(&q->mutex);
    cp_waiter *w = q->oldest;
    if (w != NULL) {
        cp_waitq__unlink_locked(q, w);
        w->slot = slot;
        *parker = cp_waitq__signal_locked(w);
    }
    pthread_mutex_unlock(&q->mutex);
    return w != NULL;
}

void *
cp_waitq_nudge(cp_waitq *q)
{
    void *parker = NULL;
    pthread_mutex_lock(&q->mutex);
    if (q->oldest != NULL &&
        (!q->oldest->nudged || cp_clock_now() - q->oldest->since >= CP_BARGE_NS)) {
        q->oldest->nudged = 1;
        parker = cp_waitq__signal_locked(q->oldest);
    }
    pthread_mutex_unlock(&q->mutex);
    return parker;
}

void
cp_waitq_push_fifo(cp_waitq *q, cp_slots *slots, uint32_t slot)
{
    pthread_mutex_lock(&q->mutex);
    atomic_store_explicit(&cp_slots_at(slots, slot)->next, CP_SLOT_NONE,
                          memory_order_relaxed);
    if (q->fifo_last == CP_SLOT_NONE)
        q->fifo_first = slot;
    else
        atomic_store_explicit(&cp_slots_at(slots, q->fifo_last)->next, slot,
                              memory_order_relaxed);
    q->fifo_last = slot;
    pthread_mutex_unlock(&q->mutex);
}

uint32_t
cp_waitq_pop_fifo(cp_waitq *q, cp_slots *slots)
{
    pthread_mutex_lock(&q->mutex);
    uint32_t slot = q->fifo_first;
    if (slot != CP_SLOT_NONE) {
        q->fifo_first = atomic_load_explicit(&cp_slots_at(slots, slot)->next,
                                             memory_order_relaxed);
        if (q->fifo_first == CP_SLOT_NONE)
            q->fifo_last = CP_SLOT_NONE;
    }
    pthread_mutex_unlock(&q->mutex);
    return slot;
}

uint32_t
cp_waitq_fifo_first(cp_waitq *q)
{
    pthread_mutex_lock(&q->mutex);
    uint32_t slot = q->fifo_first;
    pthread_mutex_unlock(&q->mutex);
    return slot;
}
