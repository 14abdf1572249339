/* cp_buf: growing, moving and shrinking, and what a failed allocation leaves. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cp_buf.h"
#include "cp_faults.h"
#include "cp_test.h"

static void
put(cp_buf *b, const char *bytes, size_t n)
{
    CHECK_EQ(cp_buf_reserve(b, n), CP_OK);
    memcpy(cp_buf_end(b), bytes, n);
    cp_buf_commit(b, n);
}

static int
holds(const cp_buf *b, const char *bytes, size_t n)
{
    return cp_buf_size(b) == n && memcmp(cp_buf_head(b), bytes, n) == 0;
}

TEST(an_empty_buffer_owns_no_memory)
{
    cp_buf b = {0};
    CHECK_EQ(cp_buf_size(&b), 0);
    CHECK_EQ(cp_buf_room(&b), 0);
    cp_buf_free(&b);
    CHECK(b.data == NULL);
}

TEST(a_reserve_gives_at_least_the_room_that_was_asked_for)
{
    const size_t rooms[] = {1, 1023, 1024, 1025, 65536, 1000001};
    for (size_t i = 0; i < sizeof rooms / sizeof *rooms; i++) {
        cp_buf b = {0};
        CHECK_EQ(cp_buf_reserve(&b, rooms[i]), CP_OK);
        CHECK(cp_buf_room(&b) >= rooms[i]);
        memset(cp_buf_end(&b), 'x', rooms[i]); /* the sanitizer looks whether it is there */
        cp_buf_free(&b);
    }
}

TEST(a_reserve_of_nothing_gives_a_buffer_that_can_be_pointed_into)
{
    cp_buf b = {0};
    CHECK_EQ(cp_buf_reserve(&b, 0), CP_OK);
    CHECK(cp_buf_end(&b) != NULL);
    cp_buf_free(&b);
}

TEST(growing_keeps_the_readable_bytes)
{
    cp_buf b = {0};
    put(&b, "abcdef", 6);
    cp_buf_consume(&b, 2);
    CHECK_EQ(cp_buf_reserve(&b, 100000), CP_OK);
    CHECK(holds(&b, "cdef", 4));
    cp_buf_free(&b);
}

TEST(room_that_is_there_already_moves_nothing)
{
    cp_buf b = {0};
    put(&b, "abc", 3);
    const char *before = cp_buf_head(&b);
    CHECK_EQ(cp_buf_reserve(&b, cp_buf_room(&b)), CP_OK);
    CHECK(cp_buf_head(&b) == before);
    cp_buf_free(&b);
}

TEST(consumed_bytes_are_room_again_without_an_allocation)
{
    cp_buf b = {0};
    char block[1024];
    memset(block, 'a', sizeof block);
    put(&b, block, sizeof block);
    size_t cap = b.cap;
    cp_buf_consume(&b, cap - 10);
    fault_clear();
    CHECK_EQ(cp_buf_reserve(&b, cap - 10), CP_OK);
    CHECK_EQ(fault_count(FAULT_ALLOC), 0);
    CHECK_EQ(b.cap, cap);
    CHECK(holds(&b, block, 10));
    cp_buf_free(&b);
}

TEST(consuming_everything_starts_at_the_front_again)
{
    cp_buf b = {0};
    put(&b, "abc", 3);
    cp_buf_consume(&b, 3);
    CHECK_EQ(b.pos, 0);
    CHECK_EQ(b.len, 0);
    cp_buf_free(&b);
}

TEST(a_failed_reserve_changes_nothing)
{
    cp_buf b = {0};
    put(&b, "abc", 3);
    cp_buf before = b;
    fault_clear();
    fault_errno(FAULT_ALLOC, ENOMEM);
    CHECK_EQ(cp_buf_reserve(&b, 1 << 20), CP_E_NOMEM);
    CHECK(memcmp(&before, &b, sizeof b) == 0);
    CHECK(holds(&b, "abc", 3));
    CHECK_EQ(cp_buf_reserve(&b, 1 << 20), CP_OK);
    CHECK(holds(&b, "abc", 3));
    cp_buf_free(&b);
}

TEST(the_first_allocation_may_fail)
{
    cp_buf b = {0};
    fault_clear();
    fault_errno(FAULT_ALLOC, ENOMEM);
    CHECK_EQ(cp_buf_reserve(&b, 1), CP_E_NOMEM);
    CHECK(b.data == NULL);
    CHECK_EQ(cp_buf_reserve(&b, 1), CP_OK);
    cp_buf_free(&b);
}

TEST(room_beyond_the_address_space_is_no_memory_and_no_overflow)
{
    cp_buf b = {0};
    put(&b, "abc", 3);
    CHECK_EQ(cp_buf_reserve(&b, SIZE_MAX), CP_E_NOMEM);
    CHECK_EQ(cp_buf_reserve(&b, SIZE_MAX - 2), CP_E_NOMEM);
    CHECK_EQ(cp_buf_reserve(&b, SIZE_MAX / 2), CP_E_NOMEM);
    CHECK_EQ(cp_buf_reserve(&b, SIZE_MAX / 4), CP_E_NOMEM);
    CHECK(holds(&b, "abc", 3));
    cp_buf_free(&b);
}

TEST(shrinking_waits_until_nothing_is_readable)
{
    cp_buf b = {0};
    put(&b, "abc", 3);
    CHECK_EQ(cp_buf_reserve(&b, 1 << 20), CP_OK);
    size_t cap = b.cap;
    cp_buf_shrink(&b, 4096);
    CHECK_EQ(b.cap, cap);
    cp_buf_consume(&b, 3);
    cp_buf_shrink(&b, 4096);
    CHECK_EQ(b.cap, 4096);
    put(&b, "def", 3);
    CHECK(holds(&b, "def", 3));
    cp_buf_free(&b);
}

TEST(a_buffer_that_is_small_enough_is_left_alone)
{
    cp_buf b = {0};
    CHECK_EQ(cp_buf_reserve(&b, 10), CP_OK);
    size_t cap = b.cap;
    fault_clear();
    cp_buf_shrink(&b, cap);
    CHECK_EQ(fault_count(FAULT_ALLOC), 0);
    CHECK_EQ(b.cap, cap);
    cp_buf_free(&b);
}

TEST(shrinking_to_nothing_gives_all_memory_back)
{
    cp_buf b = {0};
    CHECK_EQ(cp_buf_reserve(&b, 1 << 20), CP_OK);
    cp_buf_shrink(&b, 0);
    CHECK(b.data == NULL);
    CHECK_EQ(b.cap, 0);
    put(&b, "abc", 3);
    CHECK(holds(&b, "abc", 3));
    cp_buf_free(&b);
}

TEST(a_failed_shrink_leaves_a_usable_buffer)
{
    cp_buf b = {0};
    CHECK_EQ(cp_buf_reserve(&b, 1 << 20), CP_OK);
    size_t cap = b.cap;
    fault_clear();
    fault_errno(FAULT_ALLOC, ENOMEM);
    cp_buf_shrink(&b, 4096);
    CHECK_EQ(b.cap, cap);
    put(&b, "abc", 3);
    CHECK(holds(&b, "abc", 3));
    cp_buf_free(&b);
}

/* The n-th byte that ever goes in. */
static char
byte_at(size_t n)
{
    return (char)(n * 31 % 251);
}

TEST(whatever_the_pieces_bytes_come_out_in_order)
{
    unsigned seed = 7;
    cp_buf b = {0};
    size_t in = 0, out = 0;
    for (int round = 0; round < cp_test_rounds(5000); round++) {
        size_t n = (size_t)(rand_r(&seed) % 700);
        if (n != 0)
            CHECK_EQ(cp_buf_reserve(&b, n), CP_OK);
        for (size_t i = 0; i < n; i++)
            cp_buf_end(&b)[i] = byte_at(in + i);
        cp_buf_commit(&b, n);
        in += n;
        n = (size_t)rand_r(&seed) % (cp_buf_size(&b) + 1);
        for (size_t i = 0; i < n; i++)
            CHECK(cp_buf_head(&b)[i] == byte_at(out + i));
        cp_buf_consume(&b, n);
        out += n;
        if (round % 100 == 0)
            cp_buf_shrink(&b, 1024);
        CHECK(b.pos <= b.len && b.len <= b.cap);
    }
    CHECK_EQ(cp_buf_size(&b), in - out);
    cp_buf_free(&b);
}

TEST(steady_traffic_does_not_make_it_grow)
{
    cp_buf b = {0};
    char block[1000];
    memset(block, 'a', sizeof block);
    put(&b, block, sizeof block);
    for (int i = 0; i < 10000; i++) {
        put(&b, block, sizeof block);
        cp_buf_consume(&b, sizeof block);
    }
    CHECK(b.cap <= 8192);
    cp_buf_free(&b);
}
