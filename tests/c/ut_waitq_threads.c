/* The queue as a pool uses it, by many threads at once: take, dial, wait, give up, give
 * back, drop, claim all that are idle, and count them meanwhile.
 *
 * What must hold: a slot has one owner at any time; when all are done, every slot is in
 * one of the lists exactly once and nobody is in the queue; nobody who may wait for long
 * waits in vain; who waits when the pool ends is told.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cp_idle.h"
#include "cp_test.h"
#include "cp_waitq.h"

#define THREADS 6
#define MANY_THREADS 24
#define MAX_SLOTS 8
#define MOVED (UINT32_MAX - 1) /* in the place of a slot: the pool has ended */

/* Where a thread parks. It outlives every queue of the tests, as a signal may come late. */
typedef struct place {
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    int signalled;
} place;

typedef struct pool {
    cp_slots slots;
    cp_idle idle, empty;
    cp_waitq waiters;
    int fifo;
    int dials; /* slots begin without a connection, and lose it now and then */
    uint32_t n;
    uint32_t limit; /* of waiters; 0: none */
    int threads;    /* 0: THREADS */
    int rounds;
    int64_t patience_ns; /* the longest wait; a random part of it */
    _Atomic int owner[MAX_SLOTS];
    uint32_t payload[MAX_SLOTS];
    _Atomic int next_thread, waits, gave_up, raced, refused, failed, dropped, claimed, over;
} pool;

static place places[MANY_THREADS + 1];

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

static uint32_t
take_empty(pool *p)
{
    if (!p->dials)
        return CP_SLOT_NONE;
    uint32_t slot = cp_idle_pop_mpmc(&p->empty, &p->slots);
    if (slot == CP_SLOT_NONE)
        slot = cp_slots_grow_mpmc(&p->slots);
    if (slot != CP_SLOT_NONE)
        cp_slots_set_state(&p->slots, slot, CP_SLOT_OPENING);
    return slot;
}

static uint32_t
take(pool *p)
{
    uint32_t slot = take_idle(p);
    return slot == CP_SLOT_NONE ? take_empty(p) : slot;
}

/* To the list of its kind. */
static void
put_away(pool *p, uint32_t slot, int empty)
{
    cp_slots_set_state(&p->slots, slot, empty ? CP_SLOT_EMPTY : CP_SLOT_IDLE);
    if (empty)
        cp_idle_push_mpmc(&p->empty, &p->slots, slot);
    else if (p->fifo)
        cp_waitq_push_fifo(&p->waiters, &p->slots, slot);
    else
        cp_idle_push_mpmc(&p->idle, &p->slots, slot);
}

static void
offer(pool *p, uint32_t slot)
{
    void *parker = NULL;
    int empty = cp_slots_state(&p->slots, slot) == CP_SLOT_OPENING;
    if (cp_waitq_count(&p->waiters) && (empty || !cp_waitq_may_barge(&p->waiters)) &&
        cp_waitq_deliver(&p->waiters, slot, &parker)) {
        unpark(parker);
        return;
    }
    put_away(p, slot, empty);
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
        uint32_t slot = take(p);
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
    if (!cp_waitq_join(&p->waiters, &w, where, now, p->limit ? p->limit : UINT32_MAX)) {
        atomic_fetch_add(&p->refused, 1);
        return CP_SLOT_NONE;
    }
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
        uint32_t slot = take(p);
        if (slot != CP_SLOT_NONE)
            return slot;
    }
    return wait_for_slot(p, where, patience_ns);
}

/* An empty slot gets its connection, or fails to and goes to somebody else. */
static int
dial(pool *p, uint32_t slot, unsigned *seed)
{
    if (cp_slots_state(&p->slots, slot) != CP_SLOT_OPENING)
        return 1;
    if (rand_r(seed) % 4 == 0) {
        atomic_fetch_add(&p->failed, 1);
        offer(p, slot);
        return 0;
    }
    cp_slots_set_state(&p->slots, slot, CP_SLOT_BUSY);
    return 1;
}

static void
use(pool *p, uint32_t slot, int me, unsigned *seed)
{
    CHECK_EQ(atomic_exchange(&p->owner[slot], me), 0);
    CHECK_EQ(cp_slots_state(&p->slots, slot), CP_SLOT_BUSY);
    p->payload[slot]++;
    if (rand_r(seed) % 8 == 0)
        nanosleep(&(struct timespec){0, 20000}, NULL);
    CHECK_EQ(atomic_exchange(&p->owner[slot], 0), me);
}

/* Give it back as it is, or without its connection. */
static void
give_back(pool *p, uint32_t slot, unsigned *seed)
{
    int drops = p->dials && rand_r(seed) % 6 == 0;
    cp_slot_state next = drops ? CP_SLOT_OPENING : CP_SLOT_RETURNING;
    CHECK(cp_slots_claim_mpmc(&p->slots, slot, CP_SLOT_BUSY, next));
    if (drops)
        atomic_fetch_add(&p->dropped, 1);
    else
        cp_slots_set_state(&p->slots, slot, CP_SLOT_BUSY);
    offer(p, slot);
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
        if (!dial(p, slot, &seed))
            continue;
        use(p, slot, me, &seed);
        give_back(p, slot, &seed);
    }
    return NULL;
}

/* Take all that are idle at once, as disconnecting them does, and put them back. */
static void
claim_all(pool *p)
{
    uint32_t held[MAX_SLOTS], n = 0, slot;
    while (n < MAX_SLOTS && (slot = take_idle(p)) != CP_SLOT_NONE) {
        cp_slots_set_state(&p->slots, slot, CP_SLOT_CLAIMED);
        held[n++] = slot;
    }
    atomic_fetch_add(&p->claimed, (int)n);
    while (n > 0) {
        slot = held[--n];
        CHECK_EQ(cp_slots_state(&p->slots, slot), CP_SLOT_CLAIMED);
        cp_slots_set_state(&p->slots, slot, CP_SLOT_BUSY);
        offer(p, slot);
    }
}

static void
count_states(pool *p)
{
    uint32_t used = cp_slots_used(&p->slots);
    CHECK(used <= p->n);
    for (uint32_t slot = 0; slot < used; slot++)
        CHECK(cp_slots_state(&p->slots, slot) <= CP_SLOT_CLAIMED);
    uint32_t first = p->fifo ? cp_waitq_fifo_first(&p->waiters) : cp_idle_first(&p->idle);
    CHECK(first == CP_SLOT_NONE || first < p->n);
}

static void *
meddler_run(void *argument)
{
    pool *p = argument;
    while (!atomic_load(&p->over)) {
        claim_all(p);
        count_states(p);
        nanosleep(&(struct timespec){0, 50000}, NULL);
    }
    return NULL;
}

static void
pool_init(pool *p)
{
    for (int i = 0; i <= MANY_THREADS; i++) {
        pthread_mutex_init(&places[i].mutex, NULL);
        pthread_cond_init(&places[i].cond, NULL);
        places[i].signalled = 0;
    }
    cp_slots_init(&p->slots, p->n);
    cp_idle_init(&p->idle);
    cp_idle_init(&p->empty);
    cp_waitq_init(&p->waiters);
    for (uint32_t slot = 0; slot < p->n && !p->dials; slot++) {
        CHECK_EQ(cp_slots_grow_mpmc(&p->slots), slot);
        cp_slots_set_state(&p->slots, slot, CP_SLOT_BUSY);
        offer(p, slot);
    }
}

static void
run(pool *p)
{
    pthread_t thread[MANY_THREADS], meddler;
    int threads = p->threads ? p->threads : THREADS;
    pool_init(p);
    for (int i = 0; i < threads; i++)
        CHECK_EQ(pthread_create(&thread[i], NULL, worker_run, p), 0);
    if (p->dials)
        CHECK_EQ(pthread_create(&meddler, NULL, meddler_run, p), 0);
    for (int i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    atomic_store(&p->over, 1);
    if (p->dials)
        pthread_join(meddler, NULL);
}

static void
check_nothing_is_lost(pool *p)
{
    int seen[MAX_SLOTS] = {0};
    uint32_t slot, n = 0, used = cp_slots_used(&p->slots);
    CHECK_EQ(cp_waitq_count(&p->waiters), 0);
    CHECK(p->waiters.oldest == NULL && p->waiters.newest == NULL);
    while (n <= MAX_SLOTS && (slot = take_idle(p)) != CP_SLOT_NONE) {
        seen[slot]++;
        n++;
    }
    while (n <= MAX_SLOTS && (slot = cp_idle_pop_mpmc(&p->empty, &p->slots)) != CP_SLOT_NONE) {
        CHECK_EQ(cp_slots_state(&p->slots, slot), CP_SLOT_EMPTY);
        seen[slot]++;
        n++;
    }
    CHECK(p->dials || used == p->n);
    CHECK_EQ(n, used);
    for (slot = 0; slot < used; slot++)
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

TEST(a_crowd_loses_no_slot)
{
    static pool p = {.n = 3, .threads = MANY_THREADS, .patience_ns = 2000000};
    p.rounds = cp_test_rounds(300);
    run(&p);
    CHECK(atomic_load(&p.waits) > 0);
    check_nothing_is_lost(&p);
}

TEST(waiters_beyond_the_limit_are_refused_and_lose_no_slot)
{
    static pool p = {.n = 1, .limit = 2, .threads = MANY_THREADS, .patience_ns = 2000000};
    p.rounds = cp_test_rounds(300);
    run(&p);
    CHECK(atomic_load(&p.refused) > 0);
    check_nothing_is_lost(&p);
}

static void
check_all_was_met(pool *p)
{
    CHECK(atomic_load(&p->waits) > 0);
    CHECK(atomic_load(&p->failed) > 0);
    CHECK(atomic_load(&p->dropped) > 0);
    CHECK(atomic_load(&p->claimed) > 0);
}

TEST(a_pool_that_dials_drops_and_claims_loses_no_slot)
{
    static pool p = {.n = 3, .dials = 1, .patience_ns = 200000};
    p.rounds = cp_test_rounds(3000);
    run(&p);
    check_all_was_met(&p);
    check_nothing_is_lost(&p);
}

TEST(a_fifo_pool_that_dials_drops_and_claims_loses_no_slot)
{
    static pool p = {.n = 3, .fifo = 1, .dials = 1, .patience_ns = 200000};
    p.rounds = cp_test_rounds(3000);
    run(&p);
    check_all_was_met(&p);
    check_nothing_is_lost(&p);
}

TEST(patient_waiters_are_served_though_connections_are_dropped_and_claimed)
{
    static pool p = {.n = 2, .dials = 1, .patience_ns = CP_FOREVER};
    p.rounds = cp_test_rounds(500);
    run(&p);
    CHECK_EQ(atomic_load(&p.gave_up), 0);
    check_all_was_met(&p);
    check_nothing_is_lost(&p);
}

/* One that joins a pool which has ended sees it; one that has joined before is told. */
static void *
stranded_run(void *argument)
{
    pool *p = argument;
    int me = atomic_fetch_add(&p->next_thread, 1) + 1;
    cp_waiter w;
    CHECK(cp_waitq_join(&p->waiters, &w, &places[me], cp_clock_now(), UINT32_MAX));
    atomic_fetch_add(&p->waits, 1);
    while (!atomic_load(&p->over) && !cp_waitq_look(&p->waiters, &w))
        park(&places[me], CP_NS_PER_S);
    if (cp_waitq_leave(&p->waiters, &w))
        CHECK_EQ(w.slot, MOVED);
    return NULL;
}

TEST(who_waits_when_the_pool_ends_is_told)
{
    static pool p = {.n = 1};
    pool_init(&p);
    CHECK_EQ(take_idle(&p), 0);
    for (int round = 0; round < cp_test_rounds(20); round++) {
        pthread_t thread[THREADS];
        void *parker = NULL;
        atomic_store(&p.over, 0);
        atomic_store(&p.next_thread, 0);
        for (int i = 0; i < THREADS; i++)
            CHECK_EQ(pthread_create(&thread[i], NULL, stranded_run, &p), 0);
        while (atomic_load(&p.waits) < THREADS * round + round % (THREADS + 1))
            sched_yield(); /* some have joined, some are yet to */
        atomic_store(&p.over, 1);
        while (cp_waitq_deliver(&p.waiters, MOVED, &parker))
            unpark(parker);
        for (int i = 0; i < THREADS; i++)
            pthread_join(thread[i], NULL);
        CHECK_EQ(cp_waitq_count(&p.waiters), 0);
    }
    put_away(&p, 0, 0);
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
