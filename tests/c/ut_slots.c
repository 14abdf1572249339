/* cp_slots: pages on demand, a maximum that holds, states that one thread wins. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cp_faults.h"
#include "cp_slots.h"
#include "cp_test.h"

#define THREADS 4

TEST(pages_hold_each_slot_once_and_without_a_gap)
{
    uint32_t next = 0;
    for (int page = 0; page < 12; page++) {
        uint32_t size = CP_SLOT_PAGE0 << page;
        for (uint32_t i = 0; i < size; i++) {
            uint32_t first = 0;
            CHECK_EQ(cp_slots__page_of(next + i, &first), page);
            CHECK_EQ(first, next);
        }
        next += size;
    }
}

TEST(the_last_slot_of_a_huge_pool_has_a_page)
{
    const uint32_t slots[] = {INT32_MAX - 1, INT32_MAX, (uint32_t)INT32_MAX + 1};
    for (size_t i = 0; i < sizeof slots / sizeof *slots; i++) {
        uint32_t first = 0;
        int page = cp_slots__page_of(slots[i], &first);
        CHECK(page < CP_SLOT_PAGES);
        CHECK(first <= slots[i]);
        CHECK(slots[i] - first < CP_SLOT_PAGE0 << page);
    }
}

TEST(a_pool_of_two_thousand_million_allocates_only_what_it_uses)
{
    cp_slots s;
    cp_slots_init(&s, INT32_MAX);
    fault_clear();
    for (uint32_t i = 0; i < CP_SLOT_PAGE0; i++)
        CHECK_EQ(cp_slots_grow_mpmc(&s), i);
    CHECK_EQ(fault_count(FAULT_ALLOC), 1);
    cp_slots_free(&s);
}

TEST(the_maximum_is_never_passed)
{
    const uint32_t maxima[] = {0, 1, 15, 16, 17, 48, 1000};
    for (size_t i = 0; i < sizeof maxima / sizeof *maxima; i++) {
        cp_slots s;
        cp_slots_init(&s, maxima[i]);
        for (uint32_t slot = 0; slot < maxima[i]; slot++) {
            CHECK_EQ(cp_slots_grow_mpmc(&s), slot);
            CHECK_EQ(cp_slots_state(&s, slot), CP_SLOT_EMPTY);
        }
        CHECK_EQ(cp_slots_grow_mpmc(&s), CP_SLOT_NONE);
        CHECK_EQ(cp_slots_grow_mpmc(&s), CP_SLOT_NONE);
        CHECK_EQ(cp_slots_used(&s), maxima[i]);
        cp_slots_free(&s);
    }
}

TEST(a_cell_never_moves)
{
    enum { MAX = 2000 };
    static cp_slot *at[MAX];
    cp_slots s;
    cp_slots_init(&s, MAX);
    for (uint32_t slot = 0; slot < MAX; slot++) {
        CHECK_EQ(cp_slots_grow_mpmc(&s), slot);
        at[slot] = cp_slots_at(&s, slot);
        at[slot]->generation = slot * 3;
        cp_slots_set_state(&s, slot, CP_SLOT_BUSY);
    }
    for (uint32_t slot = 0; slot < MAX; slot++) {
        CHECK(cp_slots_at(&s, slot) == at[slot]);
        CHECK_EQ(at[slot]->generation, slot * 3);
        CHECK_EQ(cp_slots_state(&s, slot), CP_SLOT_BUSY);
    }
    cp_slots_free(&s);
}

TEST(no_memory_for_a_page_is_a_full_pool_until_there_is_some)
{
    cp_slots s;
    cp_slots_init(&s, 100);
    fault_clear();
    fault_errno(FAULT_ALLOC, ENOMEM);
    CHECK_EQ(cp_slots_grow_mpmc(&s), CP_SLOT_NONE);
    CHECK_EQ(cp_slots_used(&s), 0);
    for (uint32_t i = 0; i < CP_SLOT_PAGE0; i++)
        CHECK_EQ(cp_slots_grow_mpmc(&s), i);
    fault_errno(FAULT_ALLOC, ENOMEM);
    CHECK_EQ(cp_slots_grow_mpmc(&s), CP_SLOT_NONE);
    CHECK_EQ(cp_slots_grow_mpmc(&s), CP_SLOT_PAGE0);
    cp_slots_free(&s);
}

TEST(freed_slots_may_be_freed_again)
{
    cp_slots s;
    cp_slots_init(&s, 100);
    CHECK_EQ(cp_slots_grow_mpmc(&s), 0);
    cp_slots_free(&s);
    cp_slots_free(&s);
}

TEST(a_claim_needs_the_state_it_names)
{
    cp_slots s;
    cp_slots_init(&s, 1);
    CHECK_EQ(cp_slots_grow_mpmc(&s), 0);
    CHECK(!cp_slots_claim_mpmc(&s, 0, CP_SLOT_IDLE, CP_SLOT_BUSY));
    CHECK_EQ(cp_slots_state(&s, 0), CP_SLOT_EMPTY);
    CHECK(cp_slots_claim_mpmc(&s, 0, CP_SLOT_EMPTY, CP_SLOT_OPENING));
    CHECK(!cp_slots_claim_mpmc(&s, 0, CP_SLOT_EMPTY, CP_SLOT_OPENING));
    CHECK_EQ(cp_slots_state(&s, 0), CP_SLOT_OPENING);
    cp_slots_free(&s);
}

enum { GROW_MAX = 3000 };

typedef struct growth {
    cp_slots slots;
    _Atomic int handed_out[GROW_MAX];
} growth;

static void *
grow_run(void *argument)
{
    growth *g = argument;
    uint32_t slot;
    while ((slot = cp_slots_grow_mpmc(&g->slots)) != CP_SLOT_NONE) {
        atomic_fetch_add(&g->handed_out[slot], 1);
        cp_slots_at(&g->slots, slot)->generation = slot;
        cp_slots_set_state(&g->slots, slot, CP_SLOT_OPENING);
    }
    return NULL;
}

TEST(threads_that_grow_together_get_each_slot_once)
{
    static growth g;
    for (int round = 0; round < cp_test_rounds(5); round++) {
        pthread_t thread[THREADS];
        memset(&g, 0, sizeof g);
        cp_slots_init(&g.slots, GROW_MAX);
        for (int i = 0; i < THREADS; i++)
            CHECK_EQ(pthread_create(&thread[i], NULL, grow_run, &g), 0);
        for (int i = 0; i < THREADS; i++)
            pthread_join(thread[i], NULL);
        CHECK_EQ(cp_slots_used(&g.slots), GROW_MAX);
        for (uint32_t slot = 0; slot < GROW_MAX; slot++) {
            CHECK_EQ(atomic_load(&g.handed_out[slot]), 1);
            CHECK_EQ(cp_slots_at(&g.slots, slot)->generation, slot);
        }
        cp_slots_free(&g.slots);
    }
}

typedef struct contest {
    cp_slots slots;
    pthread_barrier_t start;
    _Atomic int wins;
    int rounds;
    int value; /* written by the winner alone; no atomic: a sanitizer sees a second one */
} contest;

static void *
contest_run(void *argument)
{
    contest *c = argument;
    for (int round = 0; round < c->rounds; round++) {
        pthread_barrier_wait(&c->start);
        if (cp_slots_claim_mpmc(&c->slots, 0, CP_SLOT_IDLE, CP_SLOT_BUSY)) {
            atomic_fetch_add(&c->wins, 1);
            c->value++;
        }
        if (pthread_barrier_wait(&c->start) == PTHREAD_BARRIER_SERIAL_THREAD) {
            CHECK_EQ(atomic_load(&c->wins), round + 1);
            cp_slots_set_state(&c->slots, 0, CP_SLOT_IDLE);
        }
    }
    return NULL;
}

TEST(a_claim_has_exactly_one_winner)
{
    static contest c;
    pthread_t thread[THREADS];
    c.rounds = cp_test_rounds(500);
    cp_slots_init(&c.slots, 1);
    CHECK_EQ(cp_slots_grow_mpmc(&c.slots), 0);
    cp_slots_set_state(&c.slots, 0, CP_SLOT_IDLE);
    pthread_barrier_init(&c.start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, contest_run, &c), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    CHECK_EQ(c.value, c.rounds);
    pthread_barrier_destroy(&c.start);
    cp_slots_free(&c.slots);
}
