/* The C tests' own harness: TEST() declares a test, CHECK() states what must hold.
 *
 * A test registers itself before main(); cp_test.c runs them all, or those whose
 * name contains the first argument. A failed CHECK is printed with its line, the
 * rest of the test goes on, and the program ends with status 1. CHECK may be used
 * from any thread.
 */
#ifndef CP_TEST_H
#define CP_TEST_H

#include <stddef.h>
#include <stdint.h>

typedef struct cp_test {
    const char *name;
    void (*run)(void);
    struct cp_test *next;
} cp_test;

void cp_test_add(cp_test *test);
void cp_test_fail(const char *file, int line, const char *what, long long left,
                  long long right);

/* `base` rounds of a stress test, times the environment's CP_TEST_SCALE. */
int cp_test_rounds(int base);

#define TEST(NAME)                                                         \
    static void NAME(void);                                                \
    static cp_test NAME##_entry = {#NAME, NAME, NULL};                     \
    __attribute__((constructor)) static void NAME##_register(void)         \
    {                                                                      \
        cp_test_add(&NAME##_entry);                                        \
    }                                                                      \
    static void NAME(void)

#define CHECK(CONDITION)                                                   \
    do {                                                                   \
        if (!(CONDITION))                                                  \
            cp_test_fail(__FILE__, __LINE__, #CONDITION, 0, 0);            \
    } while (0)

/* Two integers that must be equal; both are shown when they are not. */
#define CHECK_EQ(LEFT, RIGHT)                                              \
    do {                                                                   \
        long long left_ = (long long)(LEFT), right_ = (long long)(RIGHT);  \
        if (left_ != right_)                                               \
            cp_test_fail(__FILE__, __LINE__, #LEFT " == " #RIGHT, left_,   \
                         right_);                                          \
    } while (0)

#endif
