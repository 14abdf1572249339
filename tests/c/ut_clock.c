/* cp_clock: how long a wait may last. */
#include "cp_clock.h"
#include "cp_faults.h"
#include "cp_test.h"

TEST(the_clock_never_goes_back)
{
    int64_t before = cp_clock_now();
    for (int i = 0; i < 10000; i++) {
        int64_t now = cp_clock_now();
        CHECK(now >= before);
        before = now;
    }
}

TEST(a_wait_ends_after_the_inactivity_time)
{
    fault_clear();
    cp_patience p = cp_patience_of(CP_NS_PER_S, CP_FOREVER);
    int64_t now = cp_clock_now(), until = cp_patience_until(&p);
    CHECK(until >= now + CP_NS_PER_S && until <= cp_clock_now() + CP_NS_PER_S);
}

TEST(the_end_of_a_wait_does_not_move_while_it_lasts)
{
    fault_clear();
    cp_patience p = cp_patience_of(CP_NS_PER_S, CP_FOREVER);
    int64_t until = cp_patience_until(&p);
    fault_clock_advance(CP_NS_PER_S / 2);
    CHECK_EQ(cp_patience_until(&p), until);
    fault_clear();
}

TEST(bytes_that_moved_start_the_inactivity_time_anew)
{
    fault_clear();
    cp_patience p = cp_patience_of(CP_NS_PER_S, CP_FOREVER);
    int64_t until = cp_patience_until(&p);
    fault_clock_advance(CP_NS_PER_S / 2);
    cp_patience_renew(&p);
    CHECK(cp_patience_until(&p) >= until + CP_NS_PER_S / 2);
    fault_clear();
}

TEST(the_deadline_wins_when_it_is_earlier)
{
    fault_clear();
    int64_t deadline = cp_clock_now() + CP_NS_PER_MS;
    cp_patience p = cp_patience_of(CP_NS_PER_S, deadline);
    CHECK_EQ(cp_patience_until(&p), deadline);
    cp_patience_renew(&p);
    CHECK_EQ(cp_patience_until(&p), deadline);
}

TEST(the_inactivity_time_wins_when_it_ends_earlier)
{
    fault_clear();
    int64_t deadline = cp_clock_now() + 100 * CP_NS_PER_S;
    cp_patience p = cp_patience_of(CP_NS_PER_S, deadline);
    CHECK(cp_patience_until(&p) < deadline);
}

TEST(a_deadline_is_over_once_it_has_passed)
{
    fault_clear();
    cp_patience p = cp_patience_of(0, cp_clock_now() + CP_NS_PER_S);
    CHECK(!cp_patience_is_over(&p));
    fault_clock_advance(CP_NS_PER_S);
    CHECK(cp_patience_is_over(&p));
    p = cp_patience_of(0, CP_FOREVER);
    CHECK(!cp_patience_is_over(&p));
    fault_clear();
}

TEST(for_ever_never_comes)
{
    cp_patience p = cp_patience_of(CP_FOREVER, CP_FOREVER);
    CHECK_EQ(cp_patience_until(&p), CP_FOREVER);
    CHECK_EQ(cp_patience_until(&p), CP_FOREVER);
}

TEST(a_time_that_would_overflow_is_for_ever)
{
    cp_patience p = cp_patience_of(CP_FOREVER - 1, CP_FOREVER);
    CHECK_EQ(cp_patience_until(&p), CP_FOREVER);
    p = cp_patience_of(CP_FOREVER - cp_clock_now() + 1, CP_FOREVER);
    CHECK_EQ(cp_patience_until(&p), CP_FOREVER);
}

TEST(the_latest_time_that_fits_is_not_for_ever)
{
    fault_clear();
    fault_clock_stop();
    cp_patience p = cp_patience_of(CP_FOREVER - cp_clock_now(), CP_FOREVER);
    CHECK_EQ(cp_patience_until(&p), CP_FOREVER);
    p = cp_patience_of(CP_FOREVER - cp_clock_now() - 1, CP_FOREVER);
    CHECK_EQ(cp_patience_until(&p), CP_FOREVER - 1);
    fault_clear();
}

TEST(no_time_ends_at_once)
{
    cp_patience p = cp_patience_of(0, CP_FOREVER);
    CHECK(cp_patience_until(&p) <= cp_clock_now());
}
