/* Runs the registered tests, in the order of their names' declaration. */
#include "cp_test.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static cp_test *first, *last;
static _Atomic int failures;

void
cp_test_add(cp_test *test)
{
    if (first == NULL)
        first = test;
    else
        last->next = test;
    last = test;
}

void
cp_test_fail(const char *file, int line, const char *what, long long left, long long right)
{
    atomic_fetch_add(&failures, 1);
    fprintf(stderr, "%s:%d: failed: %s (%lld, %lld)\n", file, line, what, left, right);
}

int
cp_test_rounds(int base)
{
    const char *scale = getenv("CP_TEST_SCALE");
    int factor = scale == NULL ? 1 : atoi(scale);
    return base * (factor < 1 ? 1 : factor);
}

int
main(int argc, char **argv)
{
    int ran = 0;
    for (cp_test *test = first; test != NULL; test = test->next) {
        int before = atomic_load(&failures);
        if (argc > 1 && strstr(test->name, argv[1]) == NULL)
            continue;
        test->run();
        ran++;
        printf("%s %s\n", atomic_load(&failures) == before ? "ok    " : "FAILED", test->name);
        fflush(stdout);
    }
    printf("%d tests, %d failed checks\n", ran, atomic_load(&failures));
    return ran == 0 || atomic_load(&failures) != 0;
}
