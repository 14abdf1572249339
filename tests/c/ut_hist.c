/* cp_hist: every bound, and what a histogram remembers. */
#include "cp_hist.h"
#include "cp_test.h"

TEST(each_bucket_begins_where_the_one_before_ends)
{
    for (int i = 0; i < CP_HIST_BUCKETS - 1; i++) {
        CHECK(cp_hist_bucket(cp_hist_end(i) - 1) == i);
        CHECK(cp_hist_bucket(cp_hist_end(i)) == i + 1);
    }
}

TEST(what_is_too_short_or_too_long_has_a_bucket)
{
    CHECK(cp_hist_bucket(-1) == 0);
    CHECK(cp_hist_bucket(0) == 0);
    CHECK(cp_hist_bucket(INT64_MAX) == CP_HIST_BUCKETS - 1);
    CHECK(cp_hist_end(CP_HIST_BUCKETS - 1) == cp_hist_end(CP_HIST_BUCKETS - 2));
}

TEST(bounds_are_at_most_a_quarter_apart)
{
    for (int i = 1; i < CP_HIST_BUCKETS - 1; i++)
        CHECK(4 * cp_hist_end(i) <= 5 * cp_hist_end(i - 1));
}

TEST(a_histogram_keeps_counts_sum_and_the_longest)
{
    cp_hist h = {{0}, 0, 0};
    cp_hist_add(&h, 5000);
    cp_hist_add(&h, 70000);
    cp_hist_add(&h, 5001);
    CHECK(h.counts[cp_hist_bucket(5000)] == 2);
    CHECK(h.counts[cp_hist_bucket(70000)] == 1);
    CHECK(h.sum_ns == 80001);
    CHECK(h.max_ns == 70000);
}
