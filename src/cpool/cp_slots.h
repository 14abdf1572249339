/* The cells of a pool's slots. Layer 4: slot numbers and states, no connections.
 *
 * A cell never moves and is never freed while its pool lives; what changes is
 * its state. Cells come in pages that are added on demand, since a pool may
 * allow 2**31 connections; page k holds twice as many as page k-1, so the page
 * directory has a fixed size and a reader needs no lock to find a cell.
 *
 *   EMPTY -> OPENING -> BUSY -> RETURNING -> IDLE, or EMPTY
 *   IDLE -> BUSY, IDLE <-> CLAIMED
 *
 * Whoever wins the change of state owns the slot until the next change.
 */
#ifndef CP_SLOTS_H
#define CP_SLOTS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#define CP_SLOT_NONE UINT32_MAX
#define CP_SLOT_PAGE0 16u
#define CP_SLOT_PAGES 28

typedef enum cp_slot_state {
    CP_SLOT_EMPTY = 0,     /* no connection; anybody may open one here */
    CP_SLOT_OPENING = 1,   /* its owner makes and dials a connection */
    CP_SLOT_IDLE = 2,      /* in the idle list (or being taken off it) */
    CP_SLOT_BUSY = 3,      /* lent to a caller */
    CP_SLOT_RETURNING = 4, /* its caller has given it back; being made ready */
    CP_SLOT_CLAIMED = 5,   /* idle, and being closed or changed: not to be lent */
} cp_slot_state;

typedef struct cp_slot {
    _Atomic uint32_t state;
    _Atomic uint32_t next;  /* link of the list it is in; atomic because a slow
                               popper may read it after the slot has moved on */
    uint32_t generation;    /* the pool's when its connection was last opened */
    uint32_t ticket;        /* differs for each connection that was ever in it */
    /* Of its connection, for the slot's owner, on the monotonic clock: */
    int64_t since;          /* when it was lent, or came back */
    int64_t retires;        /* when it has lived its life; CP_FOREVER: never */
    int64_t stale;          /* when it has been idle for too long, or retires */
} cp_slot;

typedef struct cp_slots {
    _Atomic(cp_slot *) page[CP_SLOT_PAGES];
    _Atomic uint32_t used;  /* cells ever handed out: 0..used-1 exist */
    uint32_t max;
} cp_slots;

static inline void
cp_slots_init(cp_slots *s, uint32_t max)
{
    for (int i = 0; i < CP_SLOT_PAGES; i++)
        atomic_init(&s->page[i], NULL);
    atomic_init(&s->used, 0);
    s->max = max;
}

static inline void
cp_slots_free(cp_slots *s)
{
    for (int i = 0; i < CP_SLOT_PAGES; i++) {
        free(atomic_load_explicit(&s->page[i], memory_order_relaxed));
        atomic_init(&s->page[i], NULL);
    }
}

/* Which page holds a slot, and the number of the first slot of that page. */
static inline int
cp_slots__page_of(uint32_t slot, uint32_t *first)
{
    uint32_t n = slot / CP_SLOT_PAGE0 + 1;
    int page = 31 - __builtin_clz(n);
    *first = CP_SLOT_PAGE0 * ((1u << page) - 1u);
    return page;
}

static inline cp_slot *
cp_slots_at(const cp_slots *s, uint32_t slot)
{
    uint32_t first;
    int page = cp_slots__page_of(slot, &first);
    /* acquire: pairs with the release that published the page */
    return atomic_load_explicit(&s->page[page], memory_order_acquire) + (slot - first);
}

/* Make sure the page of `slot` is there. Losing the race to add it is fine. */
static inline int
cp_slots__page_in_mpmc(cp_slots *s, uint32_t slot)
{
    uint32_t first;
    int page = cp_slots__page_of(slot, &first);
    cp_slot *none = NULL;
    if (atomic_load_explicit(&s->page[page], memory_order_acquire) != NULL)
        return 1;
    cp_slot *fresh = calloc((size_t)CP_SLOT_PAGE0 << page, sizeof *fresh);
    if (fresh == NULL)
        return 0;
    if (!atomic_compare_exchange_strong_explicit(&s->page[page], &none, fresh,
            memory_order_release, memory_order_acquire))
        free(fresh);
    return 1;
}

/* A cell that was never used, its state EMPTY, or CP_SLOT_NONE when all `max`
 * are out (or there is no memory for another page). */
static inline uint32_t
cp_slots_grow_mpmc(cp_slots *s)
{
    uint32_t slot = atomic_load_explicit(&s->used, memory_order_relaxed);
    do {
        if (slot >= s->max || !cp_slots__page_in_mpmc(s, slot))
            return CP_SLOT_NONE;
    } while (!atomic_compare_exchange_weak_explicit(&s->used, &slot, slot + 1,
                 memory_order_acq_rel, memory_order_relaxed));
    return slot;
}

static inline uint32_t
cp_slots_used(const cp_slots *s)
{
    return atomic_load_explicit(&s->used, memory_order_acquire);
}

static inline uint32_t
cp_slots_state(const cp_slots *s, uint32_t slot)
{
    return atomic_load_explicit(&cp_slots_at(s, slot)->state, memory_order_acquire);
}

/* Only for the slot's owner. */
static inline void
cp_slots_set_state(cp_slots *s, uint32_t slot, cp_slot_state state)
{
    atomic_store_explicit(&cp_slots_at(s, slot)->state, (uint32_t)state,
                          memory_order_release);
}

/* Become the slot's owner: true for exactly one of those who try. */
static inline int
cp_slots_claim_mpmc(cp_slots *s, uint32_t slot, cp_slot_state from, cp_slot_state to)
{
    uint32_t expected = (uint32_t)from;
    return atomic_compare_exchange_strong_explicit(&cp_slots_at(s, slot)->state,
        &expected, (uint32_t)to, memory_order_acq_rel, memory_order_relaxed);
}

#endif
