/* cp_idle: newest first, each slot once, whatever the threads do. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "cp_idle.h"
#include "cp_test.h"

#define THREADS 4
#define MAX 64

typedef struct lists {
    cp_slots slots;
    cp_idle idle, other;
    _Atomic int owner[MAX]; /* 0: nobody; else the number of the thread that has it */
    uint32_t payload[MAX];  /* written by the owner alone; a sanitizer sees two of them */
    int rounds;
    _Atomic int next_thread;
} lists;

static void
lists_init(lists *l, uint32_t n)
{
    memset(l, 0, sizeof *l);
    cp_slots_init(&l->slots, n);
    cp_idle_init(&l->idle);
    cp_idle_init(&l->other);
    for (uint32_t slot = 0; slot < n; slot++)
        CHECK_EQ(cp_slots_grow_mpmc(&l->slots), slot);
}

/* How many slots a list holds, by taking them all; each only once. */
static uint32_t
drain(lists *l, cp_idle *list, int *seen)
{
    uint32_t slot, n = 0;
    while ((slot = cp_idle_pop_mpmc(list, &l->slots)) != CP_SLOT_NONE && n <= MAX) {
        seen[slot]++;
        n++;
    }
    return n;
}

TEST(an_empty_list_gives_nothing)
{
    lists l;
    lists_init(&l, 1);
    CHECK(cp_idle_first(&l.idle) == CP_SLOT_NONE);
    CHECK_EQ(cp_idle_pop_mpmc(&l.idle, &l.slots), CP_SLOT_NONE);
    CHECK_EQ(cp_idle_first(&l.idle), CP_SLOT_NONE);
    cp_slots_free(&l.slots);
}

TEST(the_newest_comes_first)
{
    lists l;
    lists_init(&l, 5);
    for (uint32_t slot = 0; slot < 5; slot++)
        cp_idle_push_mpmc(&l.idle, &l.slots, slot);
    CHECK(cp_idle_first(&l.idle) != CP_SLOT_NONE);
    for (uint32_t slot = 5; slot-- > 0;)
        CHECK_EQ(cp_idle_pop_mpmc(&l.idle, &l.slots), slot);
    CHECK(cp_idle_first(&l.idle) == CP_SLOT_NONE);
    cp_slots_free(&l.slots);
}

TEST(a_look_at_the_list_shows_the_order_of_the_pops)
{
    lists l;
    lists_init(&l, 4);
    for (uint32_t slot = 0; slot < 4; slot++)
        cp_idle_push_mpmc(&l.idle, &l.slots, slot);
    uint32_t at = cp_idle_first(&l.idle);
    for (uint32_t expected = 4; expected-- > 0;) {
        CHECK_EQ(at, expected);
        at = cp_idle_after(&l.slots, at);
    }
    CHECK_EQ(at, CP_SLOT_NONE);
    CHECK_EQ(cp_idle_pop_mpmc(&l.idle, &l.slots), 3);
    cp_slots_free(&l.slots);
}

TEST(a_slot_may_go_from_list_to_list)
{
    lists l;
    lists_init(&l, 3);
    for (uint32_t slot = 0; slot < 3; slot++)
        cp_idle_push_mpmc(&l.idle, &l.slots, slot);
    cp_idle_push_mpmc(&l.other, &l.slots, cp_idle_pop_mpmc(&l.idle, &l.slots));
    CHECK_EQ(cp_idle_first(&l.other), 2);
    CHECK_EQ(cp_idle_after(&l.slots, 2), CP_SLOT_NONE);
    CHECK_EQ(cp_idle_first(&l.idle), 1);
    cp_slots_free(&l.slots);
}

TEST(a_stale_head_loses_although_the_same_slot_is_on_top_again)
{
    lists l;
    lists_init(&l, 3);
    for (uint32_t slot = 0; slot < 3; slot++)
        cp_idle_push_mpmc(&l.idle, &l.slots, slot);
    /* A slow thread has read the head (2) and its successor (1) ... */
    uint64_t stale = atomic_load(&l.idle.head);
    uint32_t successor = cp_idle_after(&l.slots, 2);
    /* ... while others take 2 and 1 and put 2 back. */
    CHECK_EQ(cp_idle_pop_mpmc(&l.idle, &l.slots), 2);
    CHECK_EQ(cp_idle_pop_mpmc(&l.idle, &l.slots), 1);
    cp_idle_push_mpmc(&l.idle, &l.slots, 2);
    CHECK_EQ((uint32_t)stale, cp_idle_first(&l.idle));
    CHECK(!atomic_compare_exchange_strong(&l.idle.head, &stale,
                                          cp_idle__pack(stale, successor)));
    CHECK_EQ(cp_idle_pop_mpmc(&l.idle, &l.slots), 2);
    CHECK_EQ(cp_idle_pop_mpmc(&l.idle, &l.slots), 0);
    cp_slots_free(&l.slots);
}

TEST(the_tag_may_wrap_around)
{
    lists l;
    lists_init(&l, 2);
    atomic_store(&l.idle.head, (uint64_t)UINT32_MAX << 32 | CP_SLOT_NONE);
    cp_idle_push_mpmc(&l.idle, &l.slots, 0);
    cp_idle_push_mpmc(&l.idle, &l.slots, 1);
    CHECK_EQ(cp_idle_pop_mpmc(&l.idle, &l.slots), 1);
    CHECK_EQ(cp_idle_pop_mpmc(&l.idle, &l.slots), 0);
    CHECK_EQ(cp_idle_pop_mpmc(&l.idle, &l.slots), CP_SLOT_NONE);
    cp_slots_free(&l.slots);
}

static void
own(lists *l, uint32_t slot, int me)
{
    CHECK_EQ(atomic_exchange(&l->owner[slot], me), 0);
    l->payload[slot]++;
}

static void
disown(lists *l, uint32_t slot, int me)
{
    l->payload[slot]++;
    CHECK_EQ(atomic_exchange(&l->owner[slot], 0), me);
}

/* Take one slot or two, keep them a moment, give them back to one list or the other. */
static void *
churn_run(void *argument)
{
    lists *l = argument;
    int me = atomic_fetch_add(&l->next_thread, 1) + 1;
    unsigned seed = (unsigned)me;
    for (int round = 0; round < l->rounds; round++) {
        uint32_t held[3];
        int n = 0, wanted = 1 + rand_r(&seed) % 3;
        for (int i = 0; i < wanted; i++) {
            cp_idle *from = rand_r(&seed) % 4 ? &l->idle : &l->other;
            uint32_t slot = cp_idle_pop_mpmc(from, &l->slots);
            if (slot != CP_SLOT_NONE) {
                own(l, slot, me);
                held[n++] = slot;
            }
        }
        while (n > 0) {
            uint32_t slot = held[--n];
            disown(l, slot, me);
            cp_idle_push_mpmc(rand_r(&seed) % 4 ? &l->idle : &l->other, &l->slots, slot);
        }
    }
    return NULL;
}

static void
churn(uint32_t slots, int rounds)
{
    static lists l;
    pthread_t thread[THREADS];
    int seen[MAX] = {0};
    lists_init(&l, slots);
    l.rounds = cp_test_rounds(rounds);
    for (uint32_t slot = 0; slot < slots; slot++)
        cp_idle_push_mpmc(&l.idle, &l.slots, slot);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, churn_run, &l), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    CHECK_EQ(drain(&l, &l.idle, seen) + drain(&l, &l.other, seen), slots);
    for (uint32_t slot = 0; slot < slots; slot++)
        CHECK_EQ(seen[slot], 1);
    cp_slots_free(&l.slots);
}

TEST(a_slot_has_one_owner_and_none_is_lost_when_there_are_few)
{
    churn(2, 20000);
}

TEST(a_slot_has_one_owner_and_none_is_lost_when_there_are_some)
{
    churn(5, 20000);
}

TEST(a_slot_has_one_owner_and_none_is_lost_when_there_are_many)
{
    churn(MAX, 20000);
}

/* What an owner wrote before its push, the next owner sees after its pop. */
static void *
publish_run(void *argument)
{
    lists *l = argument;
    for (int round = 0; round < l->rounds; round++) {
        uint32_t slot = cp_idle_pop_mpmc(&l->idle, &l->slots);
        if (slot == CP_SLOT_NONE)
            continue;
        cp_slot *cell = cp_slots_at(&l->slots, slot);
        CHECK_EQ(cell->generation, l->payload[slot]);
        cell->generation++;
        l->payload[slot]++;
        cp_idle_push_mpmc(&l->idle, &l->slots, slot);
    }
    return NULL;
}

TEST(a_push_publishes_what_its_owner_wrote)
{
    static lists l;
    pthread_t thread[THREADS];
    lists_init(&l, 3);
    l.rounds = cp_test_rounds(20000);
    for (uint32_t slot = 0; slot < 3; slot++)
        cp_idle_push_mpmc(&l.idle, &l.slots, slot);
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, publish_run, &l), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    cp_slots_free(&l.slots);
}
