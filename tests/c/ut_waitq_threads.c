/* The queue as a pool uses it, by many threads at once: take, wait, give up, give back.
 *
 * What must hold: a slot has one owner at any time; when all are done, every slot is in
 * the idle list exactly once and nobody is in the queue; nobody who may wait for long
 * waits in vain.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cp_idle.h"
#include "cp_test.h"
#include "cp_waitq.h"

#define THREADS 6
#define MAX_SLOTS 8

/* Where a thread parks. It outlives every queue of the tests, as a signal may come late. */
typedef struct place {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    int signalled;
} place;

typedef struct pool {
    cp_slots slots;
    cp_idle idle;
    cp_waitq waiters;
    int fifo;
    uint32_t n;
    int rounds;
    int64_t patience_ns; /* the longest wait; a random part of it */
    _Atomic int owner[MAX_SLOTS];
    uint32_t payload[MAX_SLOTS];
    _Atomic int next_thread, waits, gave_up, raced;
} pool;

static place places[THREADS + 1];

static void
park(place *p, int64_t ns)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    int64_t end = (int64_t)until.tv_nsec + ns;
    until.tv_sec += (time_t)(end / CP_NS_PER_S);
    until.tv_nsec = (long)(end % CP_NS_PER_S);
    pthread_mutex_lock(&p->mutex);
    while (!p->signalled &&
           pthread_cond_timedwait(&p->cond, &p->mutex, &until) != ETIMEDOUT)
        ;
    p->signalled = 0;
    pthread_mutex_unlock(&p->mutex);
}

static void
unpark(place *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->mutex);
    p->signalled = 1;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->mutex);
}

static uint32_t
take_idle(pool *p)
{
    uint32_t slot = p->fifo ? cp_waitq_pop_fifo(&p->waiters, &p->slots)
                            : cp_idle_pop_mpmc(&p->idle, &p->slots);
    if (slot != CP_SLOT_NONE)
        cp_slots_set_state(&p->slots, slot, CP_SLOT_BUSY);
    return slot;
}

static void
offer(pool *p, uint32_t slot)
{
    void *parker = NULL;
    if (cp_waitq_count(&p->waiters) && !cp_waitq_may_barge(&p->waiters) &&
        cp_waitq_deliver(&p->waiters, slot, &parker)) {
        unpark(parker);
        return;
    }
    cp_slots_set_state(&p->slots, slot, CP_SLOT_IDLE);
    if (p->fifo)
        cp_waitq_push_fifo(&p->waiters, &p->slots, slot);
    else
        cp_idle_push_mpmc(&p->idle, &p->slots, slot);
    if (cp_waitq_count(&p->waiters))
        unpark(cp_waitq_nudge(&p->waiters));
}

/* Park for CP_BARGE_NS at most: without a GIL a slot may be pushed right between this
 * waiter's last look and the moment from which slots are delivered to it. */
static uint32_t
wait_parked(pool *p, cp_waiter *w, place *where, int64_t until)
{
    for (;;) {
        if (cp_waitq_look(&p->waiters, w))
            return CP_SLOT_NONE;
        uint32_t slot = take_idle(p);
        int64_t now = cp_clock_now();
        if (slot != CP_SLOT_NONE || now >= until)
            return slot;
        int64_t rest = until - now;
        park(where, rest < CP_BARGE_NS ? rest : CP_BARGE_NS);
    }
}

static uint32_t
wait_for_slot(pool *p, place *where, int64_t patience_ns)
{
    cp_waiter w;
    int64_t now = cp_clock_now();
    if (!cp_waitq_join(&p->waiters, &w, where, now, UINT32_MAX))
        return CP_SLOT_NONE;
    atomic_fetch_add(&p->waits, 1);
    uint32_t slot = wait_parked(p, &w, where, now + patience_ns);
    if (cp_waitq_leave(&p->waiters, &w)) {
        if (slot == CP_SLOT_NONE)
            return w.slot;
        atomic_fetch_add(&p->raced, 1); /* found one and was given another */
        offer(p, w.slot);
    }
    return slot;
}

static uint32_t
acquire(pool *p, place *where, int64_t patience_ns)
{
    if (cp_waitq_count(&p->waiters) == 0 || cp_waitq_may_barge(&p->waiters)) {
        uint32_t slot = take_idle(p);
        if (slot != CP_SLOT_NONE)
            return slot;
    }
    return wait_for_slot(p, where, patience_ns);
}

static void *
worker_run(void *argument)
{
    pool *p = argument;
    int me = atomic_fetch_add(&p->next_thread, 1) + 1;
    unsigned seed = (unsigned)me;
    for (int round = 0; round < p->rounds; round++) {
        int64_t patience = p->patience_ns == CP_FOREVER
                               ? 100 * CP_NS_PER_S
                               : rand_r(&seed) % (int)p->patience_ns;
        uint32_t slot = acquire(p, &places[me], patience);
        if (slot == CP_SLOT_NONE) {
            atomic_fetch_add(&p->gave_up, 1);
            continue;
        }
        CHECK_EQ(atomic_exchange(&p->owner[slot], me), 0);
        CHECK_EQ(cp_slots_state(&p->slots, slot), CP_SLOT_BUSY);
        p->payload[slot]++;
        if (rand_r(&seed) % 8 == 0)
            nanosleep(&(struct timespec){0, 20000}, NULL);
        CHECK_EQ(atomic_exchange(&p->owner[slot], 0), me);
        offer(p, slot);
    }
    return NULL;
}

static void
run(pool *p)
{
    pthread_t thread[THREADS];
    for (int i = 0; i <= THREADS; i++) {
        pthread_mutex_init(&places[i].mutex, NULL);
        pthread_cond_init(&places[i].cond, NULL);
        places[i].signalled = 0;
    }
    cp_slots_init(&p->slots, p->n);
    cp_idle_init(&p->idle);
    cp_waitq_init(&p->waiters);
    for (uint32_t slot = 0; slot < p->n; slot++) {
        CHECK_EQ(cp_slots_grow_mpmc(&p->slots), slot);
        cp_slots_set_state(&p->slots, slot, CP_SLOT_BUSY);
        offer(p, slot);
    }
    for (int i = 0; i < THREADS; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, worker_run, p), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
}

static void
check_nothing_is_lost(pool *p)
{
    int seen[MAX_SLOTS] = {0};
    uint32_t slot, n = 0;
    CHECK_EQ(cp_waitq_count(&p->waiters), 0);
    CHECK(p->waiters.oldest == NULL && p->waiters.newest == NULL);
    while ((slot = take_idle(p)) != CP_SLOT_NONE && n <= MAX_SLOTS) {
        seen[slot]++;
        n++;
    }
    CHECK_EQ(n, p->n);
    for (slot = 0; slot < p->n; slot++)
        CHECK_EQ(seen[slot], 1);
    cp_waitq_destroy(&p->waiters);
    cp_slots_free(&p->slots);
}

TEST(impatient_waiters_lose_no_slot)
{
    static pool p = {.n = 2, .patience_ns = 200000};
    p.rounds = cp_test_rounds(3000);
    run(&p);
    CHECK(atomic_load(&p.waits) > 0);
    check_nothing_is_lost(&p);
}

TEST(impatient_waiters_lose_no_slot_of_a_fifo_pool)
{
    static pool p = {.n = 2, .fifo = 1, .patience_ns = 200000};
    p.rounds = cp_test_rounds(3000);
    run(&p);
    CHECK(atomic_load(&p.waits) > 0);
    check_nothing_is_lost(&p);
}

TEST(patient_waiters_are_all_served)
{
    static pool p = {.n = 1, .patience_ns = CP_FOREVER};
    p.rounds = cp_test_rounds(500);
    run(&p);
    CHECK_EQ(atomic_load(&p.gave_up), 0);
    check_nothing_is_lost(&p);
}

TEST(patient_waiters_of_a_fifo_pool_are_all_served)
{
    static pool p = {.n = MAX_SLOTS / 2, .fifo = 1, .patience_ns = CP_FOREVER};
    p.rounds = cp_test_rounds(1000);
    run(&p);
    CHECK_EQ(atomic_load(&p.gave_up), 0);
    check_nothing_is_lost(&p);
}

typedef struct race {
    cp_waitq waiters;
    cp_waiter w;
    pthread_barrier_t start;
    int rounds, delivered, kept;
} race;

static void *
deliver_run(void *argument)
{
    race *r = argument;
    for (int round = 0; round < r->rounds; round++) {
        void *parker = NULL;
        pthread_barrier_wait(&r->start);
        if (cp_waitq_deliver(&r->waiters, (uint32_t)round, &parker))
            r->delivered++;
        pthread_barrier_wait(&r->start);
    }
    return NULL;
}

TEST(who_leaves_and_who_delivers_agree)
{
    static race r;
    pthread_t thread;
    cp_waitq_init(&r.waiters);
    pthread_barrier_init(&r.start, NULL, 2);
    r.rounds = cp_test_rounds(2000);
    CHECK_EQ(pthread_create(&thread, NULL, deliver_run, &r), 0);
    for (int round = 0; round < r.rounds; round++) {
        CHECK(cp_waitq_join(&r.waiters, &r.w, NULL, 1, 1));
        pthread_barrier_wait(&r.start);
        if (cp_waitq_leave(&r.waiters, &r.w)) {
            CHECK_EQ(r.w.slot, round);
            r.kept++;
        }
        pthread_barrier_wait(&r.start);
    }
    pthread_join(thread, NULL);
    CHECK_EQ(r.kept, r.delivered);
    CHECK_EQ(cp_waitq_count(&r.waiters), 0);
    pthread_barrier_destroy(&r.start);
    cp_waitq_destroy(&r.waiters);
}
