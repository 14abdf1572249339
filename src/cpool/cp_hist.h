/* A histogram of durations: four buckets for each doubling. Layer 4.
 *
 * One bucket for all below about a microsecond, one for all above two minutes; a
 * bucket's bounds are at most 25 % apart. Adding is a handful of instructions and
 * never allocates. Counts are exact where adders take turns (the GIL).
 */
#ifndef CP_HIST_H
#define CP_HIST_H

#include <stdint.h>

#define CP_HIST_FIRST 10 /* 2**10 ns end the first bucket */
#define CP_HIST_LAST 37  /* 2**37 ns begin the last */
#define CP_HIST_BUCKETS (4 * (CP_HIST_LAST - CP_HIST_FIRST) + 2)

typedef struct cp_hist {
    uint64_t counts[CP_HIST_BUCKETS];
    int64_t sum_ns;
    int64_t max_ns;
} cp_hist;

static inline int
cp_hist_bucket(int64_t ns)
{
    if (ns < INT64_C(1) << CP_HIST_FIRST)
        return 0;
    if (ns >= INT64_C(1) << CP_HIST_LAST)
        return CP_HIST_BUCKETS - 1;
    int power = 63 - __builtin_clzll((unsigned long long)ns);
    return 1 + 4 * (power - CP_HIST_FIRST) + (int)(ns >> (power - 2) & 3);
}

/* Where a bucket ends, in ns; the last has no end: its beginning. */
static inline int64_t
cp_hist_end(int bucket)
{
    int at = bucket < CP_HIST_BUCKETS - 1 ? bucket : bucket - 1;
    int power = at / 4 + CP_HIST_FIRST;
    return (INT64_C(4) + at % 4) << (power - 2);
}

static inline void
cp_hist_add(cp_hist *h, int64_t ns)
{
    h->counts[cp_hist_bucket(ns)]++;
    h->sum_ns += ns;
    if (ns > h->max_ns)
        h->max_ns = ns;
}

#endif
