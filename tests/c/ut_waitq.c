/* cp_waitq: first come first served, handing over as a question, one nudge per wait. */
#include <string.h>

#include "cp_faults.h"
#include "cp_test.h"
#include "cp_waitq.h"

#define ANY UINT32_MAX

static int place[8]; /* addresses to park at; nobody does */

static void
join(cp_waitq *q, cp_waiter *w, int number)
{
    CHECK(cp_waitq_join(q, w, &place[number], cp_clock_now(), ANY));
}

TEST(nobody_waits_in_a_new_queue)
{
    cp_waitq q;
    void *parker = NULL;
    cp_waitq_init(&q);
    CHECK_EQ(cp_waitq_count(&q), 0);
    CHECK(cp_waitq_may_barge(&q));
    CHECK(!cp_waitq_deliver(&q, 3, &parker));
    CHECK(parker == NULL);
    CHECK(cp_waitq_nudge(&q) == NULL);
    CHECK_EQ(cp_waitq_pop_fifo(&q, NULL), CP_SLOT_NONE);
    CHECK_EQ(cp_waitq_fifo_first(&q), CP_SLOT_NONE);
    cp_waitq_destroy(&q);
}

TEST(slots_go_to_the_waiters_in_the_order_they_came)
{
    cp_waitq q;
    cp_waiter w[4];
    cp_waitq_init(&q);
    for (int i = 0; i < 4; i++)
        join(&q, &w[i], i);
    CHECK_EQ(cp_waitq_count(&q), 4);
    for (int i = 0; i < 4; i++) {
        void *parker = NULL;
        CHECK(cp_waitq_deliver(&q, (uint32_t)(10 + i), &parker));
        CHECK(parker == &place[i]);
        CHECK_EQ(w[i].slot, 10 + i);
        CHECK_EQ(cp_waitq_count(&q), 3 - i);
    }
    for (int i = 0; i < 4; i++)
        CHECK(cp_waitq_leave(&q, &w[i]));
    cp_waitq_destroy(&q);
}

TEST(who_leaves_the_middle_of_the_queue_is_passed_over)
{
    const int order[] = {1, 0, 3, 2}; /* the middle, the front, the back, the last one */
    cp_waitq q;
    cp_waiter w[4];
    cp_waitq_init(&q);
    for (int i = 0; i < 4; i++)
        join(&q, &w[i], i);
    for (int i = 0; i < 4; i++) {
        CHECK(!cp_waitq_leave(&q, &w[order[i]]));
        CHECK_EQ(cp_waitq_count(&q), 3 - i);
    }
    CHECK(q.oldest == NULL && q.newest == NULL);
    for (int i = 0; i < 3; i++)
        join(&q, &w[i], i);
    void *parker = NULL;
    CHECK(!cp_waitq_leave(&q, &w[1]));
    CHECK(cp_waitq_deliver(&q, 1, &parker) && parker == &place[0]);
    CHECK(cp_waitq_deliver(&q, 2, &parker) && parker == &place[2]);
    CHECK(!cp_waitq_deliver(&q, 3, &parker));
    cp_waitq_destroy(&q);
}

TEST(who_leaves_learns_what_was_given_to_it_meanwhile)
{
    cp_waitq q;
    cp_waiter w;
    void *parker = NULL;
    cp_waitq_init(&q);
    join(&q, &w, 0);
    CHECK(cp_waitq_deliver(&q, 7, &parker));
    CHECK(cp_waitq_leave(&q, &w));
    CHECK_EQ(w.slot, 7);
    join(&q, &w, 0);
    CHECK(!cp_waitq_leave(&q, &w));
    CHECK_EQ(w.slot, CP_SLOT_NONE);
    CHECK(!cp_waitq_leave(&q, &w));
    cp_waitq_destroy(&q);
}

TEST(slot_number_nought_is_a_slot)
{
    cp_waitq q;
    cp_waiter w;
    void *parker = NULL;
    cp_waitq_init(&q);
    join(&q, &w, 0);
    CHECK(cp_waitq_deliver(&q, 0, &parker));
    CHECK(cp_waitq_look(&q, &w));
    CHECK(cp_waitq_leave(&q, &w));
    CHECK_EQ(w.slot, 0);
    cp_waitq_destroy(&q);
}

TEST(a_full_queue_takes_nobody)
{
    cp_waitq q;
    cp_waiter w[3];
    cp_waitq_init(&q);
    CHECK(!cp_waitq_join(&q, &w[0], NULL, 1, 0));
    CHECK(cp_waitq_join(&q, &w[0], NULL, 1, 2));
    CHECK(cp_waitq_join(&q, &w[1], NULL, 1, 2));
    CHECK(!cp_waitq_join(&q, &w[2], NULL, 1, 2));
    CHECK_EQ(cp_waitq_count(&q), 2);
    CHECK(!cp_waitq_leave(&q, &w[0]));
    CHECK(cp_waitq_join(&q, &w[2], NULL, 1, 2));
    cp_waitq_destroy(&q);
}

TEST(a_young_waiter_is_nudged_once)
{
    cp_waitq q;
    cp_waiter w;
    fault_clear();
    fault_clock_stop();
    cp_waitq_init(&q);
    join(&q, &w, 0);
    CHECK(cp_waitq_nudge(&q) == &place[0]);
    CHECK(cp_waitq_nudge(&q) == NULL);
    CHECK(!cp_waitq_look(&q, &w));
    CHECK(cp_waitq_nudge(&q) == NULL);
    CHECK(!cp_waitq_leave(&q, &w));
    join(&q, &w, 0);
    CHECK(cp_waitq_nudge(&q) == &place[0]); /* a new wait */
    cp_waitq_destroy(&q);
    fault_clear();
}

TEST(an_old_waiter_is_nudged_after_each_look)
{
    cp_waitq q;
    cp_waiter w;
    fault_clear();
    fault_clock_stop();
    cp_waitq_init(&q);
    join(&q, &w, 0);
    CHECK(cp_waitq_nudge(&q) == &place[0]);
    fault_clock_advance(CP_BARGE_NS);
    CHECK(cp_waitq_nudge(&q) == NULL); /* it has not looked yet */
    CHECK(!cp_waitq_look(&q, &w));
    CHECK(cp_waitq_nudge(&q) == &place[0]);
    CHECK(!cp_waitq_look(&q, &w));
    CHECK(cp_waitq_nudge(&q) == &place[0]);
    cp_waitq_destroy(&q);
    fault_clear();
}

TEST(only_the_oldest_is_nudged)
{
    cp_waitq q;
    cp_waiter w[2];
    fault_clear();
    fault_clock_stop();
    cp_waitq_init(&q);
    join(&q, &w[0], 0);
    join(&q, &w[1], 1);
    CHECK(cp_waitq_nudge(&q) == &place[0]);
    CHECK(cp_waitq_nudge(&q) == NULL);
    CHECK(!cp_waitq_leave(&q, &w[0]));
    CHECK(cp_waitq_nudge(&q) == &place[1]);
    cp_waitq_destroy(&q);
    fault_clear();
}

TEST(a_parking_place_is_not_signalled_twice_before_a_look)
{
    cp_waitq q;
    cp_waiter w;
    void *parker = &q;
    cp_waitq_init(&q);
    join(&q, &w, 0);
    CHECK(cp_waitq_nudge(&q) == &place[0]);
    CHECK(cp_waitq_deliver(&q, 5, &parker));
    CHECK(parker == NULL);
    CHECK(cp_waitq_look(&q, &w));
    CHECK(cp_waitq_leave(&q, &w));
    cp_waitq_destroy(&q);
}

TEST(a_parking_place_is_signalled_again_after_a_look_in_vain)
{
    cp_waitq q;
    cp_waiter w;
    void *parker = NULL;
    cp_waitq_init(&q);
    join(&q, &w, 0);
    CHECK(cp_waitq_nudge(&q) == &place[0]);
    CHECK(!cp_waitq_look(&q, &w));
    CHECK(cp_waitq_deliver(&q, 5, &parker));
    CHECK(parker == &place[0]);
    cp_waitq_destroy(&q);
}

TEST(newcomers_may_pass_until_the_oldest_has_waited_its_time)
{
    cp_waitq q;
    cp_waiter w[2];
    fault_clear();
    fault_clock_stop();
    cp_waitq_init(&q);
    join(&q, &w[0], 0);
    CHECK(cp_waitq_may_barge(&q));
    fault_clock_advance(CP_BARGE_NS - 1);
    CHECK(cp_waitq_may_barge(&q));
    fault_clock_advance(1);
    CHECK(!cp_waitq_may_barge(&q));
    join(&q, &w[1], 1);
    CHECK(!cp_waitq_may_barge(&q));
    CHECK(!cp_waitq_leave(&q, &w[0])); /* the next one is younger */
    CHECK(cp_waitq_may_barge(&q));
    fault_clock_advance(CP_BARGE_NS);
    CHECK(!cp_waitq_may_barge(&q));
    CHECK(!cp_waitq_leave(&q, &w[1]));
    CHECK(cp_waitq_may_barge(&q));
    cp_waitq_destroy(&q);
    fault_clear();
}

TEST(a_delivery_makes_the_next_waiter_the_oldest)
{
    cp_waitq q;
    cp_waiter w[2];
    void *parker = NULL;
    fault_clear();
    fault_clock_stop();
    cp_waitq_init(&q);
    join(&q, &w[0], 0);
    fault_clock_advance(CP_BARGE_NS);
    join(&q, &w[1], 1);
    CHECK(cp_waitq_deliver(&q, 1, &parker));
    CHECK(cp_waitq_may_barge(&q));
    cp_waitq_destroy(&q);
    fault_clear();
}

TEST(fifo_slots_come_out_oldest_first)
{
    cp_waitq q;
    cp_slots s;
    cp_waitq_init(&q);
    cp_slots_init(&s, 5);
    for (uint32_t slot = 0; slot < 5; slot++)
        CHECK_EQ(cp_slots_grow_mpmc(&s), slot);
    for (uint32_t slot = 5; slot-- > 0;)
        cp_waitq_push_fifo(&q, &s, slot);
    CHECK_EQ(cp_waitq_fifo_first(&q), 4);
    for (uint32_t slot = 5; slot-- > 1;)
        CHECK_EQ(cp_waitq_pop_fifo(&q, &s), slot);
    cp_waitq_push_fifo(&q, &s, 4);
    CHECK_EQ(cp_waitq_pop_fifo(&q, &s), 0);
    CHECK_EQ(cp_waitq_pop_fifo(&q, &s), 4);
    CHECK_EQ(cp_waitq_pop_fifo(&q, &s), CP_SLOT_NONE);
    cp_waitq_push_fifo(&q, &s, 2); /* after it was empty */
    CHECK_EQ(cp_waitq_pop_fifo(&q, &s), 2);
    CHECK_EQ(cp_waitq_pop_fifo(&q, &s), CP_SLOT_NONE);
    cp_slots_free(&s);
    cp_waitq_destroy(&q);
}

TEST(one_fifo_slot_may_go_round_and_round)
{
    cp_waitq q;
    cp_slots s;
    cp_waitq_init(&q);
    cp_slots_init(&s, 1);
    CHECK_EQ(cp_slots_grow_mpmc(&s), 0);
    for (int i = 0; i < 10; i++) {
        cp_waitq_push_fifo(&q, &s, 0);
        CHECK_EQ(cp_waitq_pop_fifo(&q, &s), 0);
        CHECK_EQ(cp_waitq_pop_fifo(&q, &s), CP_SLOT_NONE);
    }
    cp_slots_free(&s);
    cp_waitq_destroy(&q);
}
