/* Monotonic time, deadlines and the patience of one wait. Layer 0.
 *
 * All times are nanoseconds on CLOCK_MONOTONIC. CP_FOREVER never comes.
 */
#ifndef CP_CLOCK_H
#define CP_CLOCK_H

#include <stdint.h>
#include <time.h>

#define CP_FOREVER INT64_MAX
#define CP_NS_PER_S INT64_C(1000000000)
#define CP_NS_PER_MS INT64_C(1000000)

static inline int64_t
cp_clock_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * CP_NS_PER_S + ts.tv_nsec;
}

/* The point in time that is `ns` after `now`. */
static inline int64_t
cp_clock_after(int64_t now, int64_t ns)
{
    return ns > CP_FOREVER - now ? CP_FOREVER : now + ns;
}

/* How long one verb may wait. `idle_ns` starts anew with each byte that moves
 * (CP_FOREVER: no limit); `deadline` is a point in time that nothing moves.
 * `until` is the end of the wait that is going on, 0 before it has begun: a
 * wait that a signal broke off goes on with the rest of its time. */
typedef struct cp_patience {
    int64_t idle_ns;
    int64_t deadline;
    int64_t until;
} cp_patience;

static inline cp_patience
cp_patience_of(int64_t idle_ns, int64_t deadline)
{
    cp_patience p = {idle_ns, deadline, 0};
    return p;
}

/* The end of the wait that begins now, or of the one that was broken off. */
static inline int64_t
cp_patience_until(cp_patience *p)
{
    if (p->until == 0)
        p->until = cp_clock_after(cp_clock_now(), p->idle_ns);
    return p->until < p->deadline ? p->until : p->deadline;
}

/* Has the deadline passed, if there is one? Who loops over verbs must ask: where the
 * bytes never stop coming no wait begins that could end. */
static inline int
cp_patience_is_over(const cp_patience *p)
{
    return p->deadline != CP_FOREVER && cp_clock_now() >= p->deadline;
}

/* Bytes have moved: the inactivity clock starts anew. */
static inline void
cp_patience_renew(cp_patience *p)
{
    p->until = 0;
}

#endif
