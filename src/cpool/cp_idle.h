/* Lists of slots, newest first, without a lock. Layer 4.
 *
 * Any number of threads may push and pop. Slots are numbers that are never
 * freed while the pool lives, so nothing has to be reclaimed; the tag in the
 * upper half of the head changes with every push and pop and makes a stale
 * head lose its compare-and-swap (ABA).
 */
#ifndef CP_IDLE_H
#define CP_IDLE_H

#include "cp_slots.h"

typedef struct cp_idle {
    _Atomic uint64_t head; /* tag << 32 | slot */
} cp_idle;

_Static_assert(sizeof(cp_idle) == 8, "the head must be one machine word to be lock-free");

static inline uint64_t
cp_idle__pack(uint64_t old, uint32_t slot)
{
    return ((old >> 32) + 1u) << 32 | slot;
}

static inline void
cp_idle_init(cp_idle *list)
{
    atomic_init(&list->head, (uint64_t)CP_SLOT_NONE);
}

/* The swap is seq_cst: it pairs with the counter of waiters, see cp_waitq.h. */
static inline void
cp_idle_push_mpmc(cp_idle *list, cp_slots *slots, uint32_t slot)
{
    uint64_t old = atomic_load_explicit(&list->head, memory_order_relaxed);
    cp_slot *cell = cp_slots_at(slots, slot);
    do
        atomic_store_explicit(&cell->next, (uint32_t)old, memory_order_relaxed);
    while (!atomic_compare_exchange_weak(&list->head, &old, cp_idle__pack(old, slot)));
}

static inline uint32_t
cp_idle_pop_mpmc(cp_idle *list, const cp_slots *slots)
{
    uint64_t old = atomic_load_explicit(&list->head, memory_order_acquire);
    uint32_t slot, next;
    do {
        slot = (uint32_t)old;
        if (slot == CP_SLOT_NONE)
            return CP_SLOT_NONE;
        next = atomic_load_explicit(&cp_slots_at(slots, slot)->next, memory_order_relaxed);
    } while (!atomic_compare_exchange_weak(&list->head, &old, cp_idle__pack(old, next)));
    return slot;
}

/* For a look at the list while nobody changes it: its first slot, and the next. */
static inline uint32_t
cp_idle_first(const cp_idle *list)
{
    return (uint32_t)atomic_load(&list->head);
}

static inline uint32_t
cp_idle_after(const cp_slots *slots, uint32_t slot)
{
    return atomic_load_explicit(&cp_slots_at(slots, slot)->next, memory_order_relaxed);
}

#endif
