/* The one global word of the core. */
#include "cp_fork.h"

#include <pthread.h>
#include <stdatomic.h>

static _Atomic uint32_t generation;
static atomic_flag watched = ATOMIC_FLAG_INIT;

static void
cp_fork__in_child(void)
{
    atomic_fetch_add_explicit(&generation, 1, memory_order_relaxed);
}

int
cp_fork_watch(void)
{
    if (atomic_flag_test_and_set(&watched))
        return 0;
    return pthread_atfork(NULL, NULL, cp_fork__in_child);
}

uint32_t
cp_fork_generation(void)
{
    return atomic_load_explicit(&generation, memory_order_relaxed);
}
